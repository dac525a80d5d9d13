package vm

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// AddProgram adds a program of this machine to the archive, with the libraries that ldd names.
func AddProgram(ctx context.Context, a *Archive, name string) error {
	file, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("add program %s: %w (scripts/setup installs it)", name, err)
	}
	files := []string{file}
	out, err := exec.CommandContext(ctx, "ldd", file).Output()
	// ldd fails for a script or a static binary, which need no libraries.
	if err == nil {
		files = append(files, parseLdd(out)...)
	}
	for _, file := range files {
		real, err := filepath.EvalSymlinks(file)
		if err != nil {
			return fmt.Errorf("add program %s: %w", name, err)
		}
		a.File(merged(file), 0o755, real)
	}
	return nil
}

// parseLdd takes the paths out of lines like "libc.so.6 => /lib/libc.so.6 (0x...)" and "/lib64/ld-...".
func parseLdd(out []byte) []string {
	var files []string
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		for field := range strings.FieldsSeq(lines.Text()) {
			if strings.HasPrefix(field, "/") {
				files = append(files, field)
			}
		}
	}
	return files
}

// merged puts /bin, /sbin and /lib* under /usr, where the guest's links point.
func merged(file string) string {
	for _, top := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(file, top) {
			return "/usr" + file
		}
	}
	return file
}
