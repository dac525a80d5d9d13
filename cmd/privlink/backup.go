package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
)

// backup writes the daemon's state to a file, whole or not at all.
func (c *call) backup(ctx context.Context, name string) (err error) {
	from, err := c.api.Stream(ctx, http.MethodGet, "/privlink/backup", nil)
	if err != nil {
		return err
	}
	defer from.Close()
	if name == "-" {
		_, err := io.Copy(c.env.stdout, from)
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(name), ".privlink-backup-*") // mode 0600: it holds everybody's resources
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(file.Name())
		}
	}()
	if _, err := io.Copy(file, from); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	if err := os.Rename(file.Name(), name); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return c.out.say("all resources are in %s", name)
}

func (c *call) restore(ctx context.Context, name string) error {
	var from io.Reader = c.env.stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		from = file
	}
	answer, err := c.api.Stream(ctx, http.MethodPost, "/privlink/restore", from)
	if err != nil {
		return err
	}
	return answer.Close()
}
