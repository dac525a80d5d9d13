// Package newest tells the story of a private link with the newest major of the Azure SDK, every
// operation at least once. story.go has what all majors know; its copy for the oldest one is generated
// beside it, in package oldest. extra.go has what only the newest knows.
//
// It imports the SDK, package check and, for the names of privlink's own properties, pkg/api. Tests: go test ./scripts/check-sdk, as root.
package newest

//go:generate sh -c "sed -e 's,^package newest,package oldest,' -e 's,armnetwork/v9,armnetwork,' -e '1i // Code generated from newest/story.go; DO NOT EDIT.\\n' story.go > ../oldest/story.go"
