package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/privlink/privlink/pkg/lab"
)

// Options of a demo.
type Options struct {
	Binary string    // the privlink executable to show
	Mode   string    // tc: TC alone; xdp: XDP in front of TC
	Keep   bool      // leave it up at the end, both consumers approved
	JSON   bool      // with Keep, end with one line of JSON in place of the text
	Out    io.Writer // progress and results
}

// Kept says where a demo stands that was kept; the last line of its output with JSON.
type Kept struct {
	Socket    string         `json:"socket"`
	Service   KeptService    `json:"service"`
	Consumers []KeptConsumer `json:"consumers"`
	Down      string         `json:"down"` // the command that removes it all
}

// KeptService names the service.
type KeptService struct {
	Name          string `json:"name"`
	Subscription  string `json:"subscription"`
	ResourceGroup string `json:"resourceGroup"`
}

// KeptConsumer is one consumer's namespace, its endpoint's address and the provider's name for its connection.
type KeptConsumer struct {
	Netns      string `json:"netns"`
	IP         string `json:"ip"`
	Connection string `json:"connection"`
}

// Run shows the main job, in under half a minute.
func Run(ctx context.Context, o Options) error {
	if o.Mode != "tc" && o.Mode != "xdp" {
		return fmt.Errorf("run demo: mode %q is neither tc nor xdp", o.Mode)
	}
	return lab.Run(ctx, lab.Options{Name: "demo", Log: o.Out, Keep: o.Keep}, func(ctx context.Context, l *lab.Lab) error {
		s := &show{Options: o, lab: l, begin: time.Now()}
		s.build(ctx)
		if err := s.tell(ctx); err != nil {
			return err
		}
		if o.Keep {
			return s.leave()
		}
		return nil
	})
}

// tell goes through the steps.
func (s *show) tell(ctx context.Context) error {
	for i, step := range s.steps() {
		fmt.Fprintf(s.Out, "\n%d. %s\n", i+1, step.title)
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("demo failed at step %d, %s: %w", i+1, step.title, err)
		}
	}
	fmt.Fprintf(s.Out, "\nAll as it should be, after %.1f s.\n", time.Since(s.begin).Seconds())
	return nil
}

// Down removes a demo that was kept.
func Down(id string) error {
	if err := lab.Remove(id); err != nil {
		return fmt.Errorf("remove demo %s: %w", id, err)
	}
	return nil
}

// leave says how to enter the demo that stays up.
func (s *show) leave() error {
	kept := Kept{
		Socket:  s.daemon.Socket,
		Service: KeptService{Name: serviceName, Subscription: s.provider.subscription, ResourceGroup: resourceGroup},
		Down:    s.Binary + " demo --down " + s.lab.ID(),
	}
	for _, c := range s.consumers {
		kept.Consumers = append(kept.Consumers, KeptConsumer{Netns: c.vm.Name, IP: endpointIP, Connection: c.connection})
	}
	if s.JSON {
		return json.NewEncoder(s.Out).Encode(kept)
	}
	binary := s.Binary
	if !strings.ContainsRune(binary, filepath.Separator) {
		binary = "privlink"
	}
	s.say("It stays up. To look around:")
	for _, c := range s.consumers {
		s.say("  ip netns exec %s curl http://%s/", c.vm.Name, endpointIP)
	}
	s.say("  ip netns exec %s bash", s.gateway.Name)
	s.say("  export PRIVLINK_SOCKET=%s PRIVLINK_SUBSCRIPTION=%s", s.daemon.Socket, s.provider.subscription)
	s.say("  %s connection list", binary)
	s.say("To remove it:\n  %s", kept.Down)
	return nil
}

func (s *show) say(format string, args ...any) {
	fmt.Fprintf(s.Out, format+"\n", args...)
}
