package server

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/store"
)

// maxBackup bounds what restore reads, in bytes.
const maxBackup = 4 << 30

// backup writes a consistent copy of the whole state while others use it.
func (s *Server) backup(r *request) (*response, error) {
	r.writer.Header().Set("Content-Type", "application/octet-stream")
	if err := s.options.Controller.Backup(r.Context(), r.writer); err != nil {
		// The status has gone out already; only an end in the middle tells that the copy is not whole.
		s.options.Log.WithError(err).Error("backup ended early")
		panic(http.ErrAbortHandler)
	}
	return nil, nil
}

// restore replaces the whole state with a backup, and the kernel follows.
func (s *Server) restore(r *request) (*response, error) {
	body := http.MaxBytesReader(r.writer, r.Body, maxBackup)
	err := s.options.Controller.Restore(r.Context(), r.actor, body)
	if errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrSchema) {
		return nil, api.NewError(http.StatusBadRequest, api.CodeInvalidRequest, "", "%v", err)
	}
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if err := s.agree(r); err != nil {
		return nil, err
	}
	return &response{status: http.StatusOK}, nil
}
