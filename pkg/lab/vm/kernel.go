package vm

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kernel is an unpacked kernel package of Debian.
type Kernel struct {
	// Image is the path of the vmlinuz.
	Image string
	// modules maps the names of modules (with _ for -) to their files.
	modules map[string]string
}

// OpenKernel looks through a folder into which kernel packages were unpacked. Older packages have
// boot/vmlinuz-* and lib/modules, the newest usr/lib/modules/*/vmlinuz and usr/lib/modules.
func OpenKernel(folder string) (*Kernel, error) {
	k := &Kernel{modules: map[string]string{}}
	err := filepath.WalkDir(folder, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := d.Name()
		if name == "vmlinuz" || strings.HasPrefix(name, "vmlinuz-") {
			k.Image = file
		}
		base := strings.TrimSuffix(name, ".xz")
		if module, ok := strings.CutSuffix(base, ".ko"); ok {
			k.modules[moduleName(module)] = file
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open kernel %s: %w", folder, err)
	}
	if k.Image == "" {
		return nil, fmt.Errorf("open kernel %s: no vmlinuz in it (an unpacked linux-image package is wanted)", folder)
	}
	return k, nil
}

// Module is the code of one module.
type Module struct {
	Name string
	Code []byte
}

// Modules returns those of the named modules that the kernel has as files (others are built in, or
// are not), each behind what it depends on.
func (k *Kernel) Modules(ctx context.Context, names ...string) ([]Module, error) {
	var list []Module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = moduleName(name)
		file, there := k.modules[name]
		if !there || seen[name] {
			return nil
		}
		seen[name] = true
		code, err := moduleCode(ctx, file)
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		depends, err := dependencies(code)
		if err != nil {
			return fmt.Errorf("read module %s: %w", name, err)
		}
		for _, other := range depends {
			if err := add(other); err != nil {
				return err
			}
		}
		list = append(list, Module{Name: name, Code: code})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// moduleName is the name the kernel uses: files may have - where it has _.
func moduleName(name string) string {
	return strings.ReplaceAll(name, "-", "_")
}

// moduleCode reads a module, unpacked.
func moduleCode(ctx context.Context, file string) ([]byte, error) {
	if !strings.HasSuffix(file, ".xz") {
		return os.ReadFile(file)
	}
	out, err := exec.CommandContext(ctx, "xz", "-dc", file).Output()
	if err != nil {
		return nil, fmt.Errorf("xz -dc %s: %w (is xz-utils installed?)", file, err)
	}
	return out, nil
}

// dependencies reads the names behind depends= in the .modinfo section. Before it is installed, a
// package has no modules.dep.
func dependencies(code []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(code))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	return parseDepends(data), nil
}

// parseDepends takes the names out of NUL-terminated key=value strings.
func parseDepends(modinfo []byte) []string {
	for _, field := range strings.Split(string(modinfo), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			return strings.Split(list, ",")
		}
	}
	return nil
}
