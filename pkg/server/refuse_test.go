package server

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/privlink/privlink/pkg/store"
)

// What keeps the store from writing is told where an operator can mend it; paths and everything else stay in the log.
func TestRefuse_StoreCannotWrite_CauseIsToldWithoutPaths(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	for _, c := range []struct {
		err    error
		status int
		want   string
	}{
		{unix.ENOSPC, http.StatusInsufficientStorage, "no space left in the state folder"},
		{unix.EROFS, http.StatusInsufficientStorage, "file system is read-only"},
		{store.ErrGone, http.StatusInsufficientStorage, "removed or replaced"},
		{errors.New("something else"), http.StatusInternalServerError, "internal error (request 7;"},
	} {
		w := httptest.NewRecorder()
		new(Server).refuse(w, httptest.NewRequest(http.MethodPut, "/x", nil), logrus.NewEntry(log), "7", fmt.Errorf("commit: /secret/state.db: %w", c.err))
		if body := w.Body.String(); w.Code != c.status || !strings.Contains(body, c.want) || strings.Contains(body, "secret") {
			t.Errorf("%v: %d %s", c.err, w.Code, body)
		}
	}
}
