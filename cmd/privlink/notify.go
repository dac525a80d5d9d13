package main

import (
	"fmt"
	"net"
)

// notify tells the service manager a state ("READY=1"), as sd_notify(3) describes; without one it does nothing.
func notify(env *environment, state string) error {
	path := env.getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	// A name that begins with @ is in the abstract namespace, which net knows by the same letter.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		defer conn.Close()
		_, err = conn.Write([]byte(state))
	}
	if err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}
