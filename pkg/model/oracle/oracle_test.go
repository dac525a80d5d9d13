package oracle

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// conversations is how many there are of each protocol through each gateway.
const conversations = 10_000

// together is how many go on at once.
const together = 32

func unacknowledged(fd int) int {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

// results are the endings of conversations, by number.
type results []string

// converse has all conversations of a protocol through one gateway.
func converse(t *testing.T, n network, kinds []conversation) results {
	t.Helper()
	ended := make(results, conversations)
	numbers := make(chan int)
	var wait sync.WaitGroup
	for range together {
		wait.Go(func() {
			for i := range numbers {
				ended[i] = kindOf(kinds, i).talk(t.Context(), n.client, i)
			}
		})
	}
	for i := range conversations {
		numbers <- i
	}
	close(numbers)
	wait.Wait()
	return ended
}

// kindOf spreads the kinds over the numbers by their shares.
func kindOf(kinds []conversation, number int) conversation {
	at := number * 61 % 100
	for _, k := range kinds {
		if at -= k.share; at < 0 {
			return k
		}
	}
	return kinds[0]
}

func TestOracle_SameConversations_EndAsThroughNftables(t *testing.T) {
	known := differences(t)
	happened := make(map[string]bool)
	comparison := new(strings.Builder)
	defer func() {
		t.Log(comparison)
		report(t, comparison.String())
	}()
	fmt.Fprintf(comparison, "%d conversations of each protocol, through privlink and through nftables:\n", conversations)
	for _, protocol := range []struct {
		name  string
		kinds []conversation
	}{{"tcp", tcpKinds}, {"udp", udpKinds}} {
		ends := make(map[string]results)
		for _, gateway := range []func(*testing.T) network{throughPrivlink, throughNftables} {
			t.Run(protocol.name, func(t *testing.T) {
				n := gateway(t)
				strangers := serve(t, n)
				ends[n.name] = converse(t, n, protocol.kinds)
				if s := strangers.Load(); s != 0 {
					t.Errorf("%d conversations reached the server from another address than the NAT IP, through %s", s, n.name)
				}
			})
		}
		counts := make(map[string]map[[2]string]int)
		for i := range conversations {
			kind := kindOf(protocol.kinds, i).name
			if counts[kind] == nil {
				counts[kind] = make(map[[2]string]int)
			}
			counts[kind][[2]string{ends["privlink"][i], ends["nftables"][i]}]++
		}
		for _, kind := range protocol.kinds {
			for pair, count := range counts[kind.name] {
				fmt.Fprintf(comparison, "%6d  %s", count, describe(kind.name, pair[0], pair[1]))
				if pair[0] != pair[1] && known[kind.name] == pair {
					fmt.Fprint(comparison, "  (why: pkg/model/oracle/DIFFERENCES.md)")
				}
				fmt.Fprintln(comparison)
				if pair[0] == pair[1] {
					continue
				}
				if want, ok := known[kind.name]; !ok || want != pair {
					t.Errorf("%d conversations differ: %s", count, describe(kind.name, pair[0], pair[1]))
				}
				happened[kind.name] = true
			}
		}
	}
	for kind := range known {
		if !happened[kind] {
			t.Errorf("DIFFERENCES.md names %q, where nothing differed", kind)
		}
	}
}

// reportVariable names a file that gets the comparison: what a test logs is not shown where it passes.
const reportVariable = "ORACLE_REPORT"

func report(t *testing.T, comparison string) {
	t.Helper()
	if name := os.Getenv(reportVariable); name != "" {
		if err := os.WriteFile(name, []byte(comparison), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// differences are those that DIFFERENCES.md explains: what each gateway makes of a kind.
func differences(t *testing.T) map[string][2]string {
	t.Helper()
	text, err := os.ReadFile("DIFFERENCES.md")
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string][2]string)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.HasPrefix(cells[1], "-") || strings.TrimSpace(cells[1]) == "conversation" {
			continue
		}
		if strings.TrimSpace(cells[4]) == "" {
			t.Errorf("%s: no reason", cells[1])
		}
		known[strings.TrimSpace(cells[1])] = [2]string{strings.TrimSpace(cells[2]), strings.TrimSpace(cells[3])}
	}
	return known
}
