package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"github.com/privlink/privlink/pkg/lab"
	"golang.org/x/sys/unix"
)

// Ports of the servers.
const (
	PortDatagrams = 7007 // UDP: echo
	PortEcho      = 7008 // TCP: echo
	PortBulk      = 7009 // TCP: checked transfers, as lab.BulkServer has them
)

// receiveBuffer holds some seconds of every stream, in bytes as the kernel counts them.
const receiveBuffer = 8 << 20

// Serve answers all kinds of traffic at the address until the lab ends. Its TCP echo skips a PROXY v2
// header in front of a connection; the transfers want none.
func Serve(n *lab.Namespace, ip string) error {
	conn, err := n.ListenPacket("udp4", fmt.Sprintf("%s:%d", ip, PortDatagrams))
	if err != nil {
		return fmt.Errorf("serve datagrams in %s: %w", n, err)
	}
	if err := enlarge(conn.(syscall.Conn)); err != nil {
		return err
	}
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			size, from, err := conn.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil { // else an ICMP error for an earlier echo
				_, _ = conn.WriteTo(buffer[:size], from) // whoever is gone misses nothing
			}
		}
	}()
	listener, err := n.Listen("tcp4", fmt.Sprintf("%s:%d", ip, PortEcho))
	if err != nil {
		return fmt.Errorf("serve connections in %s: %w", n, err)
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(c)
		}
	}()
	n.BulkServer(fmt.Sprintf("%s:%d", ip, PortBulk))
	n.Lab().OnClose(func() {
		conn.Close()
		listener.Close()
	})
	return nil
}

// proxySignature begins a PROXY v2 header; 4 bytes follow, of which the last two are the length of the rest.
const proxySignature = "\r\n\r\n\x00\r\nQUIT\n"

// echo says everything back but a PROXY header.
func echo(c net.Conn) {
	defer c.Close()
	var head [len(proxySignature) + 4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return
	}
	if string(head[:len(proxySignature)]) == proxySignature {
		length := int64(binary.BigEndian.Uint16(head[len(proxySignature)+2:]))
		if _, err := io.CopyN(io.Discard, c, length); err != nil {
			return
		}
	} else if _, err := c.Write(head[:]); err != nil {
		return
	}
	_, _ = io.Copy(c, c) // ends with the connection, however that ends
}

// enlarge lets a socket keep what arrives while its reader does not run.
func enlarge(conn syscall.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("enlarge a receive buffer: %w", err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("enlarge a receive buffer: %w", err)
	}
	return nil
}
