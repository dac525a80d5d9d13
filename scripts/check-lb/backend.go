package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// serve is a backend's whole life: every line it is sent is a request, which it answers with its name and the line.
// It returns when it cannot serve.
func serve(address, name string) error {
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	return serveOn(listener, name)
}

// serveOn serves until the listener is closed.
func serveOn(listener net.Listener, name string) error {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			lines := bufio.NewReader(conn)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					return
				}
				if _, err := io.WriteString(conn, name+" "+line); err != nil {
					return
				}
			}
		}()
	}
}

// patience is how long an answer may take; a machine with other work is slow, and a lost packet is sent again.
const patience = 15 * time.Second

// caller is a client's connection.
type caller struct {
	conn    net.Conn
	lines   *bufio.Reader
	serial  int
	backend string // who answers
}

func newCaller(conn net.Conn) *caller { return &caller{conn: conn, lines: bufio.NewReader(conn)} }

// ask sends a request and reads its answer, which must be to this request and of the backend that answered before.
func (c *caller) ask() error {
	c.serial++
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c.conn, "request %d\n", c.serial); err != nil {
		return err
	}
	line, err := c.lines.ReadString('\n')
	if err != nil {
		return err
	}
	name, rest, _ := strings.Cut(line, " ")
	if rest != fmt.Sprintf("request %d\n", c.serial) {
		return fmt.Errorf("answer %q to request %d", line, c.serial)
	}
	if c.backend != "" && name != c.backend {
		return fmt.Errorf("%s answers on a connection to %s", name, c.backend)
	}
	c.backend = name
	return nil
}
