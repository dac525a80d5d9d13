package server

import (
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
