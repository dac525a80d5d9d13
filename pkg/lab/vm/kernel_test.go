package vm

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestKernel_OldAndNewPackage_ImageAndModulesFound(t *testing.T) {
	for name, files := range map[string][2]string{
		"old": {"boot/vmlinuz-6.1.0-56-cloud-amd64", "lib/modules/6.1.0/kernel/net/sched/sch-ingress.ko"},
		"new": {"usr/lib/modules/7.3.4/vmlinuz", "usr/lib/modules/7.3.4/kernel/net/sched/sch_ingress.ko.xz"},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			for _, file := range files {
				path := filepath.Join(folder, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			k, err := OpenKernel(folder)
			if err != nil {
				t.Fatal(err)
			}
			if k.Image != filepath.Join(folder, files[0]) {
				t.Errorf("image %s", k.Image)
			}
			if k.modules["sch_ingress"] != filepath.Join(folder, files[1]) {
				t.Errorf("modules %v", k.modules)
			}
		})
	}
}

func TestKernel_NoImage_Error(t *testing.T) {
	if _, err := OpenKernel(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no vmlinuz") {
		t.Errorf("error %v", err)
	}
}

func TestKernel_ModuleInfo_Dependencies(t *testing.T) {
	info := []byte("license=GPL\x00depends=nf_defrag_ipv4,nf_defrag_ipv6\x00name=nf_conntrack\x00")
	if got := parseDepends(info); !slices.Equal(got, []string{"nf_defrag_ipv4", "nf_defrag_ipv6"}) {
		t.Errorf("depends %q", got)
	}
	if got := parseDepends([]byte("depends=\x00name=veth\x00")); len(got) != 0 {
		t.Errorf("depends %q, want none", got)
	}
}

func TestProgram_LddOutput_Paths(t *testing.T) {
	out := "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"
	if got := parseLdd([]byte(out)); !slices.Equal(got, []string{"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}) {
		t.Errorf("libraries %q", got)
	}
	if got := merged("/lib64/ld-linux-x86-64.so.2"); got != "/usr/lib64/ld-linux-x86-64.so.2" {
		t.Errorf("merged to %s", got)
	}
}
