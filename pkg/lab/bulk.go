package lab

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A bulk transfer sends a stream that both ends can compute, so every byte is compared with what it
// should be and the first wrong one is named. Client to server: magic, size each way and seed (8
// bytes each, big endian). Server to client: length and text of its name. Then both send at once;
// whoever has received and compared all of its part sends one byte.
const (
	bulkMagic   = 0x70726976_6c696e6b
	bulkHeader  = 8 * 4
	bulkChunk   = 64 << 10
	bulkReceipt = 0x06
	toServer    = 0 // direction, part of the stream's key
	toClient    = 1
)

// Bulk says what one transfer sends.
type Bulk struct {
	Put, Get uint64 // bytes to the server and from it
	// Seed makes the two streams; give every transfer its own, so that a mix-up cannot go unseen.
	Seed uint64
	// OnBytes, if set, is called with the number of bytes of every chunk received from the server.
	OnBytes func(n int)
}

// BulkResult is what the client saw of a transfer that went well.
type BulkResult struct {
	Server   string // the name of the server that answered
	Duration time.Duration
}

// BulkServer answers bulk transfers.
type BulkServer struct {
	Addr string // where it listens

	name     string
	listener net.Listener
	serving  sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool
	errs     []error

	finished atomic.Int64
}

// BulkServer starts a server for bulk transfers at the TCP address ("10.0.0.4:9000"); it tells the
// namespace's name to its clients. It ends with Close or with the lab.
func (n *Namespace) BulkServer(address string) *BulkServer {
	n.lab.tb.Helper()
	ln, err := n.Listen("tcp4", address)
	if err != nil {
		n.fatal("serve bulk transfers at", address, err)
	}
	s := ServeBulk(n.short, ln)
	n.lab.onClose(s.Close)
	return s
}

// ServeBulk is BulkServer for a process that has no lab and is inside the namespace. It tells the name to its
// clients and ends with Close.
func ServeBulk(name string, ln net.Listener) *BulkServer {
	s := &BulkServer{Addr: ln.Addr().String(), name: name, listener: ln, open: map[net.Conn]bool{}}
	s.serving.Go(s.accept)
	return s
}

// Close ends the server and its connections.
func (s *BulkServer) Close() {
	s.listener.Close()
	s.mu.Lock()
	for conn := range s.open {
		conn.Close()
	}
	s.mu.Unlock()
	s.serving.Wait()
}

// Finished says how many transfers went well as the server saw them.
func (s *BulkServer) Finished() int { return int(s.finished.Load()) }

// Errors are those of transfers that did not, each with the client's address.
func (s *BulkServer) Errors() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]error(nil), s.errs...)
}

func (s *BulkServer) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.open[conn] = true
		s.mu.Unlock()
		s.serving.Go(func() {
			err := s.serve(conn)
			s.mu.Lock()
			defer s.mu.Unlock()
			delete(s.open, conn)
			conn.Close()
			if err != nil && !isClosed(err) {
				s.errs = append(s.errs, fmt.Errorf("%s: %w", conn.RemoteAddr(), err))
			}
		})
	}
}

func (s *BulkServer) serve(conn net.Conn) error {
	var header [bulkHeader]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return fmt.Errorf("read header: %w", err)
	}
	if magic := binary.BigEndian.Uint64(header[:]); magic != bulkMagic {
		return fmt.Errorf("bad magic %#x", magic)
	}
	put, get, seed := binary.BigEndian.Uint64(header[8:]), binary.BigEndian.Uint64(header[16:]), binary.BigEndian.Uint64(header[24:])
	if _, err := conn.Write(append([]byte{byte(len(s.name))}, s.name...)); err != nil {
		return fmt.Errorf("write name: %w", err)
	}
	if err := exchange(conn, newStream(seed, toClient), get, newStream(seed, toServer), put, nil); err != nil {
		return err
	}
	s.finished.Add(1)
	// The client closes first: the side that does keeps the port in TIME_WAIT.
	if _, err := conn.Read(header[:]); !errors.Is(err, io.EOF) {
		return fmt.Errorf("wait for the client's end: %w", err)
	}
	return nil
}

// Transfer makes one bulk transfer from the namespace to the server at the address, from the local
// address if one is given.
func (n *Namespace) Transfer(ctx context.Context, local, remote string, b Bulk) (BulkResult, error) {
	conn, err := n.Dial(ctx, "tcp4", local, remote)
	if err != nil {
		return BulkResult{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	result, err := TransferOver(conn, b)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return result, err
}

// TransferOver is Transfer over a connection that exists.
func TransferOver(conn net.Conn, b Bulk) (BulkResult, error) {
	begin := time.Now()
	var header [bulkHeader]byte
	binary.BigEndian.PutUint64(header[:], bulkMagic)
	binary.BigEndian.PutUint64(header[8:], b.Put)
	binary.BigEndian.PutUint64(header[16:], b.Get)
	binary.BigEndian.PutUint64(header[24:], b.Seed)
	if _, err := conn.Write(header[:]); err != nil {
		return BulkResult{}, fmt.Errorf("write header: %w", err)
	}
	if _, err := io.ReadFull(conn, header[:1]); err != nil {
		return BulkResult{}, fmt.Errorf("read the server's name: %w", err)
	}
	name := make([]byte, header[0])
	if _, err := io.ReadFull(conn, name); err != nil {
		return BulkResult{}, fmt.Errorf("read the server's name: %w", err)
	}
	result := BulkResult{Server: string(name)}
	err := exchange(conn, newStream(b.Seed, toServer), b.Put, newStream(b.Seed, toClient), b.Get, b.OnBytes)
	result.Duration = time.Since(begin)
	return result, err
}

// exchange sends and receives at the same time, then gives and takes the receipt.
func exchange(conn net.Conn, out *stream, outSize uint64, in *stream, inSize uint64, onBytes func(int)) error {
	sent := make(chan error, 1)
	go func() { sent <- out.send(conn, outSize) }()
	errReceive := in.receive(conn, inSize, onBytes)
	if errReceive != nil {
		conn.Close() // the sender may be waiting for the peer
		<-sent
		return errReceive
	}
	if err := <-sent; err != nil {
		return err
	}
	receipt := []byte{bulkReceipt}
	if _, err := conn.Write(receipt); err != nil {
		return fmt.Errorf("write receipt: %w", err)
	}
	if _, err := io.ReadFull(conn, receipt); err != nil {
		return fmt.Errorf("read receipt after all %d and %d bytes: %w", outSize, inSize, err)
	}
	if receipt[0] != bulkReceipt {
		return fmt.Errorf("bad receipt %#x", receipt[0])
	}
	return nil
}

// stream is an endless sequence of bytes fixed by seed and direction, several GB/s fast (AES-CTR).
type stream struct {
	cipher cipher.Stream
	zero   []byte
	chunk  []byte
}

func newStream(seed uint64, direction byte) *stream {
	var key, iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(key[:], seed)
	key[15] = direction
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key's length is right
	}
	return &stream{cipher: cipher.NewCTR(block, iv[:]), zero: make([]byte, bulkChunk), chunk: make([]byte, bulkChunk)}
}

// next returns the next n bytes, at most a chunk; they stay until the next call.
func (s *stream) next(n int) []byte {
	s.cipher.XORKeyStream(s.chunk[:n], s.zero[:n])
	return s.chunk[:n]
}

func (s *stream) send(to io.Writer, size uint64) error {
	for done := uint64(0); done < size; {
		n := int(min(size-done, bulkChunk))
		if _, err := to.Write(s.next(n)); err != nil {
			return fmt.Errorf("send at byte %d of %d: %w", done, size, err)
		}
		done += uint64(n)
	}
	return nil
}

func (s *stream) receive(from io.Reader, size uint64, onBytes func(int)) error {
	buffer := make([]byte, bulkChunk)
	for done := uint64(0); done < size; {
		n, err := from.Read(buffer[:min(size-done, bulkChunk)])
		want := s.next(n)
		if !bytes.Equal(buffer[:n], want) {
			at := 0
			for buffer[at] == want[at] {
				at++
			}
			return fmt.Errorf("corrupt: byte %d of %d is %#02x, sent was %#02x", done+uint64(at), size, buffer[at], want[at])
		}
		done += uint64(n)
		if onBytes != nil && n > 0 {
			onBytes(n)
		}
		if err != nil && done < size {
			return fmt.Errorf("receive at byte %d of %d: %w", done, size, err)
		}
	}
	return nil
}
