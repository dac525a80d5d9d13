package main

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// sockmap hands segments from one socket to its partner in the kernel: a SOCKHASH from a
// socket's cookie to its partner, and an sk_skb program that looks the partner up.
type sockmap struct {
	partners *ebpf.Map
}

func newSockmap() (*sockmap, error) {
	partners, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockHash, KeySize: 8, ValueSize: 4, MaxEntries: 65536})
	if err != nil {
		return nil, fmt.Errorf("make sockhash: %w", err)
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkSKB, AttachType: ebpf.AttachSkSKBStreamVerdict, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.FnGetSocketCookie.Call(),
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.LoadMapPtr(asm.R2, partners.FD()),
			asm.Mov.Reg(asm.R3, asm.RFP),
			asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnSkRedirectHash.Call(),
			asm.Return(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("load sk_skb program: %w", err)
	}
	err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: partners.FD(), Program: program, Attach: ebpf.AttachSkSKBStreamVerdict})
	if err != nil {
		return nil, fmt.Errorf("attach sk_skb program: %w", err)
	}
	return &sockmap{partners}, nil
}

// join couples two sockets and waits for their ends, which user space still sees. The header comes
// after: what a server says while only one of the two is in the map would be dropped.
func (s *sockmap) join(a, b *net.TCPConn, head []byte) error {
	keyA, err := s.put(a, b)
	if err != nil {
		return err
	}
	keyB, err := s.put(b, a)
	if err != nil {
		return err
	}
	if _, err := b.Write(head); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- end(a, b) }()
	err = errors.Join(end(b, a), <-done)
	_, _ = s.partners.Delete(keyA), s.partners.Delete(keyB)
	return err
}

// end passes on what the program left to user space, and the end of the stream.
func end(to, from *net.TCPConn) error {
	_, err := io.Copy(struct{ io.Writer }{to}, struct{ io.Reader }{from})
	return errors.Join(err, to.CloseWrite())
}

// put makes to the partner of from.
func (s *sockmap) put(from, to *net.TCPConn) (cookie uint64, err error) {
	rawFrom, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	rawTo, err := to.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failure error
	err = errors.Join(rawFrom.Control(func(fd uintptr) {
		cookie, failure = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	}), failure)
	if err != nil {
		return 0, fmt.Errorf("read socket cookie: %w", err)
	}
	err = errors.Join(rawTo.Control(func(fd uintptr) {
		failure = s.partners.Put(cookie, uint32(fd))
	}), failure)
	if err != nil {
		return 0, fmt.Errorf("put socket into sockhash: %w", err)
	}
	return cookie, nil
}
