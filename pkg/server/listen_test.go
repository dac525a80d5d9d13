package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestListenTCP_PlainHTTP_LoopbackOnly(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.com:0"} {
		l, err := ListenTCP(TCPOptions{Address: address})
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.HasSuffix(err.Error(), "plain HTTP is for loopback only (set certificate and key)") {
			t.Errorf("%s: %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1:0", "localhost:0"} {
		l, err := ListenTCP(TCPOptions{Address: address})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		l.Close()
	}
	if _, err := ListenTCP(TCPOptions{Address: "127.0.0.1:0", CertFile: "/nowhere"}); err == nil {
		t.Error("a certificate without a key was taken")
	}
}

// The kernel's limit is said, and what is just within it works.
func TestListenUnix_LongestPath_WorksAndLongerIsExplained(t *testing.T) {
	dir, err := os.MkdirTemp("", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const longest = 103 // of 107, as it is made as NAME.new
	path := filepath.Join(dir, strings.Repeat("s", longest-len(dir)-1))
	l, err := ListenUnix(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := ListenUnix(path+"s", 0o600); err == nil || !strings.HasSuffix(err.Error(), "the path has 104 bytes, at most 103 are possible") {
		t.Errorf("one byte more: %v", err)
	}
}
