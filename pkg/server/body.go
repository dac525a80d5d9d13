package server

import (
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/privlink/privlink/pkg/api"
)

// readBody reads a request's body up to api.MaxBody. pkg/api checks depth and contents.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if kind := r.Header.Get("Content-Type"); kind != "" {
		if media, _, err := mime.ParseMediaType(kind); err != nil || media != "application/json" {
			return nil, api.NewError(http.StatusUnsupportedMediaType, api.CodeInvalidRequest, "Content-Type", "%q is not application/json", kind)
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, api.NewError(http.StatusRequestEntityTooLarge, api.CodeTooLarge, "", "the body is larger than the %d bytes allowed", api.MaxBody)
	case err != nil:
		return nil, api.NewError(http.StatusBadRequest, api.CodeInvalidRequest, "", "read body: %v", err)
	}
	return body, nil
}
