// Package oldest tells the story of package newest with the oldest major of the Azure SDK that is
// supported, whose api-version is 2022-01-01. story.go is generated: see package newest.
package oldest
