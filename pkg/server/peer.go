package server

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"golang.org/x/sys/unix"
)

// Peer is what is known of who sent a request before anybody is asked what it means.
type Peer struct {
	// Unix is set for a request on the Unix socket.
	Unix *UnixPeer
	// Certificate is the verified client certificate of a TLS connection, or nil.
	Certificate *x509.Certificate
	// Token is the bearer token of the request, or empty.
	Token string
	// Address is where the request came from, for the audit log.
	Address string
}

// UnixPeer is a process at the other end of a Unix socket, as the kernel vouches for it
// (SO_PEERCRED, SO_PEERGROUPS): its ids when it connected.
type UnixPeer struct {
	PID, UID, GID uint32
	Groups        []uint32
}

type peerKey struct{}

// withPeer keeps the credentials of a connection in the context of its requests.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	peer, err := unixPeer(unixConn)
	if err != nil {
		return ctx // without credentials nobody is let in
	}
	return context.WithValue(ctx, peerKey{}, peer)
}

func unixPeer(conn *net.UnixConn) (*UnixPeer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	var peer *UnixPeer
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			failed = err
			return
		}
		peer = &UnixPeer{PID: uint32(cred.Pid), UID: cred.Uid, GID: cred.Gid}
		peer.Groups, failed = peerGroups(int(fd))
	})
	if err := errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("read peer credentials: %w", err)
	}
	return peer, nil
}

// peerGroups are the supplementary groups of the peer; the kernel writes an array of u32.
func peerGroups(fd int) ([]uint32, error) {
	// GetsockoptString cuts the last byte and stops at NUL, so the call is made with room for 65536 groups,
	// the kernel's limit, through a plain byte buffer.
	buffer := make([]byte, 4*65536)
	n, err := getsockopt(fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS, buffer)
	if err != nil {
		return nil, err
	}
	groups := make([]uint32, 0, n/4)
	for ; n >= 4; n -= 4 {
		groups = append(groups, binary.NativeEndian.Uint32(buffer[n-4:]))
	}
	return groups, nil
}

// tokenPrefix begins every token that the control plane makes.
const tokenPrefix = "plk_"

// peerOf collects the credentials of a request.
func peerOf(r *http.Request) Peer {
	peer := Peer{Address: r.RemoteAddr}
	if who, ok := r.Context().Value(peerKey{}).(*UnixPeer); ok {
		peer.Unix = who
		peer.Address = fmt.Sprintf("unix pid %d uid %d", who.PID, who.UID)
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		peer.Certificate = r.TLS.PeerCertificates[0]
	}
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		peer.Token = strings.TrimSpace(token)
	}
	// The kernel has said who is at the other end of the Unix socket. Clients made for the cloud send a token of
	// their own there, which means nothing; one of ours takes precedence.
	if peer.Unix != nil && !strings.HasPrefix(peer.Token, tokenPrefix) {
		peer.Token = ""
	}
	return peer
}
