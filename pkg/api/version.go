package api

import (
	"net/http"
	"slices"
	"strings"
)

// Versions are the api-versions that are understood, oldest first. One model serves all:
// the schema of these types only grew.
func Versions() []string {
	return []string{
		"2022-01-01", "2022-05-01", "2022-07-01", "2022-09-01", "2022-11-01",
		"2023-02-01", "2023-04-01", "2023-05-01", "2023-06-01", "2023-09-01", "2023-11-01",
		"2024-01-01", "2024-03-01", "2024-05-01", "2024-07-01", "2024-10-01",
		"2025-01-01", "2025-03-01", "2025-05-01",
	}
}

// LatestVersion is the newest of Versions.
const LatestVersion = "2025-05-01"

// CheckVersion refuses an api-version that is missing or not one of Versions.
func CheckVersion(version string) error {
	if version == "" {
		return NewError(http.StatusBadRequest, CodeMissingVersion, "api-version",
			"the query parameter api-version is required (such as %s)", LatestVersion)
	}
	if !slices.Contains(Versions(), strings.ToLower(version)) {
		return NewError(http.StatusBadRequest, CodeInvalidVersion, "api-version",
			"%q is not supported (supported: %s)", version, strings.Join(Versions(), ", "))
	}
	return nil
}
