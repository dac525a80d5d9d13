package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"
	"time"

	"github.com/privlink/privlink/pkg/dataplane"
	"github.com/privlink/privlink/pkg/lab"
	"golang.org/x/sys/unix"
)

// daemonVariable names the file with a daemonConfig; set, the test binary is a daemon.
const daemonVariable = "FAULTS_DAEMON"

func TestMain(m *testing.M) {
	if file := os.Getenv(daemonVariable); file != "" {
		if err := beDaemon(file); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	if role := os.Getenv(neighbourVariable); role != "" {
		if err := beNeighbour(role, os.Args[1:]); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		return
	}
	lab.Main(m)
}

// daemonConfig is what the daemon is told by its file.
type daemonConfig struct {
	BPFFS string
	Pairs uint32
	NoTCX bool
	State dataplane.State
	// Descriptors, if not 0, becomes the daemon's limit once it has read this. It stays until somebody changes it.
	Descriptors uint64
}

func readDaemonConfig(file string) (c daemonConfig, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(text, &c)
}

// beDaemon is the life of a daemon: it applies the State in its file and says how long that took, does so
// again at SIGUSR1, and ends with SIGTERM.
func beDaemon(file string) error {
	config, err := readDaemonConfig(file)
	if err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer cancel()
	again := make(chan os.Signal, 1)
	signal.Notify(again, unix.SIGUSR1)
	begin := time.Now()
	d, err := dataplane.Open(ctx, dataplane.Options{
		BPFFS: config.BPFFS, Pairs: config.Pairs, NoTCX: config.NoTCX, State: func() (dataplane.State, error) { return config.State, nil },
	})
	if err != nil {
		return err
	}
	opened := time.Since(begin)
	if err := settle(d, config.State); err != nil {
		return errors.Join(err, d.Close())
	}
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		return errors.Join(err, d.Close())
	}
	busy := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	fmt.Println("ready", opened.Milliseconds(), time.Since(begin).Milliseconds(), busy.Milliseconds())
	for number := 1; ; number++ {
		select {
		case <-ctx.Done():
			return d.Close()
		case <-again:
			config, err := readDaemonConfig(file)
			if err == nil && config.Descriptors != 0 {
				err = limitDescriptors(config.Descriptors)
			}
			if err == nil {
				err = settle(d, config.State)
			}
			fmt.Println("applied", number, err)
		}
	}
}

func limitDescriptors(n uint64) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = n
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

// settle applies a State and waits until the kernel agrees.
func settle(d *dataplane.Dataplane, s dataplane.State) error {
	if _, err := d.Apply(context.Background(), s); err != nil {
		return err
	}
	return lab.Poll(20*time.Second, func() error {
		r := d.Result()
		if !r.Settled() || len(r.Unresolved) > 0 {
			return fmt.Errorf("probing %v, looking for %v", r.Pending, r.Unresolved)
		}
		for _, a := range r.Attachments {
			if a.Err != nil {
				return a.Err
			}
		}
		return nil
	})
}

// daemon is the dataplane in a process of its own, inside the gateway.
type daemon struct {
	r       *rig
	config  daemonConfig
	file    string
	process *lab.Process
	applies int
	// What the last start took: until the programs were in place, until the State was applied, and processor time.
	opened, ready, busy time.Duration
}

// newDaemon describes one for the rig's State; start starts it.
func (r *rig) newDaemon() *daemon {
	return &daemon{r: r, file: r.Path("daemon.json"), config: daemonConfig{BPFFS: r.bpffs, Pairs: r.o.pairs, NoTCX: r.o.noTCX, State: r.state}}
}

func (d *daemon) write() {
	d.r.t.Helper()
	text, err := json.Marshal(d.config)
	if err == nil {
		err = os.WriteFile(d.file, text, 0o600)
	}
	if err != nil {
		d.r.t.Fatal(err)
	}
}

// launch starts the process and does not wait.
func (d *daemon) launch() *lab.Process {
	d.write()
	d.applies = 0
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), daemonVariable+"="+d.file)
	d.process = d.r.gw.StartCommand(context.Background(), cmd)
	return d.process
}

// start starts the process and waits until it says that the kernel agrees.
func (d *daemon) start() {
	d.r.t.Helper()
	p := d.launch()
	d.r.Wait("the daemon to be ready", 20*time.Second, func() error {
		out := p.Output()
		var opened, ready, busy int64
		_, after, ok := strings.Cut("\n"+out, "\nready ")
		if !ok {
			select {
			case <-p.Exited():
				d.r.t.Fatalf("the daemon ended: %s", out)
			default:
			}
			return errors.New(out)
		}
		if _, err := fmt.Sscan(after, &opened, &ready, &busy); err != nil {
			return err
		}
		d.opened, d.ready, d.busy = time.Duration(opened)*time.Millisecond, time.Duration(ready)*time.Millisecond, time.Duration(busy)*time.Millisecond
		return nil
	})
}

// apply makes it read its State again and returns the error it says.
func (d *daemon) apply(s dataplane.State) string {
	d.r.t.Helper()
	d.config.State = s
	d.write()
	d.applies++
	if err := d.process.Signal(unix.SIGUSR1); err != nil {
		d.r.t.Fatal(err)
	}
	var answer string
	d.r.Wait("the daemon to apply", 30*time.Second, func() error {
		_, after, ok := strings.Cut(d.process.Output(), fmt.Sprintf("applied %d ", d.applies))
		line, _, whole := strings.Cut(after, "\n")
		if !ok || !whole {
			return errors.New(d.process.Output())
		}
		answer = line
		return nil
	})
	return answer
}
