package main

import (
	"io/fs"
	"path/filepath"
	"runtime"
	"strings"
)

// objectFiles lists the generated BPF objects below a folder that are for this machine, of programs
// and of tests. bpf2go names them NAME_x86_bpfel.o, NAME_arm64_bpfel_test.o, or NAME_bpfel.o for all.
func objectFiles(root string) ([]string, error) {
	other := "_arm64_"
	if runtime.GOARCH == "arm64" {
		other = "_x86_"
	}
	var files []string
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if strings.HasPrefix(name, ".") && name != "." {
				return fs.SkipDir
			}
			return nil
		}
		if (strings.HasSuffix(name, "_bpfel.o") || strings.HasSuffix(name, "_bpfel_test.o")) && !strings.Contains(name, other) {
			relative, err := filepath.Rel(root, file)
			if err != nil {
				return err
			}
			files = append(files, relative)
		}
		return nil
	})
	return files, err
}
