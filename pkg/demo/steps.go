package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/privlink/privlink/pkg/api"
	"github.com/privlink/privlink/pkg/lab"
)

type step struct {
	title string
	run   func(context.Context) error
}

func (s *show) steps() []step {
	return []step{
		{"The provider publishes nginx and sshd behind one load balancer", s.publish},
		{"Two consumers with the same addresses ask for it by its alias", s.request},
		{"The provider approves consumer one, and only it gets through", s.approveFirst},
		{"The provider approves consumer two, and both work at once", s.approveSecond},
		{"The flow table keeps them apart by their LinkIDs", s.showFlows},
		{"The provider rejects consumer two while both download", s.reject},
		{"The provider approves consumer two again, and it works again", s.approveAgain},
	}
}

func (s *show) publish(ctx context.Context) error {
	if _, err := s.provider.input(ctx, s.providerResources(), "apply", "-f", "-"); err != nil {
		return err
	}
	for _, vm := range []*lab.Namespace{s.web, s.ssh} {
		if err := s.provider.attach(ctx, "datacenter", vm.String(), s.Mode); err != nil {
			return err
		}
	}
	var service api.PrivateLinkService
	err := s.provider.json(ctx, &service, "service", "create", serviceName, "--lb", "balancer", "--frontend", "front",
		"--nat-subnet", "servers", "--nat-ip-count", "2", "--visibility", api.Anyone)
	if err != nil {
		return err
	}
	s.alias = service.Properties.Alias
	for _, c := range service.Properties.IPConfigurations {
		s.natIPs = append(s.natIPs, c.Properties.PrivateIPAddress)
	}
	if s.alias == "" || len(s.natIPs) != 2 {
		return fmt.Errorf("service has alias %q and NAT IPs %v, want one alias and two NAT IPs", s.alias, s.natIPs)
	}
	s.say("   network %s: web VM %s (nginx, port 80), ssh VM %s (sshd, port 22), frontend %s", prefix, webIP, sshIP, frontendIP)
	s.say("   service %s: NAT IPs %s, open to anyone with the alias, every request to be approved", serviceName, strings.Join(s.natIPs, " and "))
	s.say("   alias %s", s.alias)
	return nil
}

func (s *show) request(ctx context.Context) error {
	for _, c := range s.consumers {
		_, err := c.cli(ctx, "vnet", "create", "home", "--prefix", prefix, "--subnet", "default=10.0.1.0/24")
		if err != nil {
			return err
		}
		if err := c.attach(ctx, "home", c.vm.String(), s.Mode); err != nil {
			return err
		}
		_, err = c.cli(ctx, "endpoint", "create", "to-shop", "--vnet", "home", "--subnet", "default", "--ip", endpointIP,
			"--service", s.alias, "--request-message", "We are "+c.name+", please let us in")
		if err != nil {
			return err
		}
		s.say("   %s: network %s, VM %s, endpoint %s", c.name, prefix, clientIP, endpointIP)
	}
	s.say("   what the provider sees:")
	if err := s.table(ctx, &s.provider, "connection", "list", "--status", "Pending"); err != nil {
		return err
	}
	var inbox []api.PrivateEndpointConnection
	if err := s.provider.json(ctx, &inbox, "connection", "list", "--status", "Pending"); err != nil {
		return err
	}
	for _, c := range s.consumers {
		at := slices.IndexFunc(inbox, func(p api.PrivateEndpointConnection) bool { return p.Properties.Subscription == c.subscription })
		if at < 0 {
			return fmt.Errorf("the inbox has no request of %s, subscription %s", c.name, c.subscription)
		}
		if message := inbox[at].Properties.RequestMessage; !strings.Contains(message, c.name) {
			return fmt.Errorf("the request of %s has message %q", c.name, message)
		}
		c.connection, c.linkID = inbox[at].Name, inbox[at].Properties.LinkIdentifier
	}
	// What reaches the provider's VMs is seen there; ARP by privlink is no traffic of consumers.
	captures := []*lab.Capture{s.web.Capture("eth0"), s.ssh.Capture("eth0")}
	if err := together(s.consumers, func(c *consumer) error { return c.unreachable(ctx) }); err != nil {
		return err
	}
	for _, capture := range captures {
		capture.Stop()
		if n := capture.Count(isIPv4); n > 0 {
			return fmt.Errorf("%d packets reached a VM of the provider without approval", n)
		}
	}
	s.say("   nothing passes: curl and ssh time out, no packet reaches the provider's VMs")
	return nil
}

func (s *show) approveFirst(ctx context.Context) error {
	one, two := s.consumers[0], s.consumers[1]
	if err := s.decide(ctx, "approve", one, "welcome to the shop"); err != nil {
		return err
	}
	if err := s.sees(ctx, one, api.Approved, "welcome to the shop"); err != nil {
		return err
	}
	banner, err := one.reach(ctx)
	if err != nil {
		return fmt.Errorf("%s is approved: %w", one.name, err)
	}
	s.say("   %s: curl gets %q, ssh gets %q", one.name, strings.TrimSpace(page), banner)
	if err := two.unreachable(ctx); err != nil {
		return err
	}
	s.say("   %s: still nothing", two.name)
	return s.backendSees()
}

// backendSees looks into the web server's log for who the client was.
func (s *show) backendSees() error {
	var line string
	err := lab.Poll(3*time.Second, func() error {
		log := s.nginx.AccessLog()
		if len(log) == 0 {
			return errors.New("the web server's log is empty")
		}
		line = log[len(log)-1]
		return nil
	})
	if err != nil {
		return err
	}
	if client, _, _ := strings.Cut(line, " "); !slices.Contains(s.natIPs, client) {
		return fmt.Errorf("the web server saw client %s, which is no NAT IP (%v)", client, s.natIPs)
	}
	s.say("   the web server's log has a NAT IP as the client: %s", line)
	return nil
}

func (s *show) approveSecond(ctx context.Context) error {
	two := s.consumers[1]
	if err := s.decide(ctx, "approve", two, "you too"); err != nil {
		return err
	}
	if err := s.sees(ctx, two, api.Approved, "you too"); err != nil {
		return err
	}
	err := together(s.consumers, func(c *consumer) error {
		if _, err := c.reach(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.say("   curl and ssh work for both at the same time, from %s to %s each", clientIP, endpointIP)
	return nil
}

func (s *show) showFlows(ctx context.Context) error {
	for _, c := range s.consumers {
		s.downloads = append(s.downloads, startDownload(ctx, c))
	}
	for _, d := range s.downloads {
		if err := d.moves(); err != nil {
			return err
		}
	}
	if err := s.table(ctx, &s.provider, "flow", "list", "--service", serviceName); err != nil {
		return err
	}
	var flows []api.Flow
	if err := s.provider.json(ctx, &flows, "flow", "list", "--service", serviceName); err != nil {
		return err
	}
	// Root sees both sides. A provider with no more than its own subscription sees no address of a consumer's.
	consumersSide := func(f api.Flow) bool {
		return strings.HasPrefix(f.Client, clientIP+":") && f.Endpoint == endpointIP+":80"
	}
	if s.provider.remote != nil {
		consumersSide = func(f api.Flow) bool { return f.Client == "" && f.Endpoint == "" }
	}
	for _, c := range s.consumers {
		if !slices.ContainsFunc(flows, func(f api.Flow) bool { return fmt.Sprint(f.LinkID) == c.linkID && consumersSide(f) }) {
			return fmt.Errorf("no flow with the LinkID of %s, %s", c.name, c.linkID)
		}
	}
	return nil
}

func (s *show) reject(ctx context.Context) error {
	one, two := s.downloads[0], s.downloads[1]
	begin := time.Now()
	if err := s.decide(ctx, "reject", two.consumer, "your contract has ended"); err != nil {
		return err
	}
	if err := two.ends(ctx); err != nil {
		return err
	}
	took := time.Since(begin)
	s.say("   its download stopped after %d kB, %d ms after the command was typed: %s", two.size()>>10, took.Milliseconds(), two.reason())
	if err := one.moves(); err != nil {
		return err
	}
	s.say("   that of %s goes on", one.consumer.name)
	if err := s.sees(ctx, two.consumer, api.Rejected, "your contract has ended"); err != nil {
		return err
	}
	if err := two.consumer.unreachable(ctx); err != nil {
		return err
	}
	if err := one.moves(); err != nil {
		return err
	}
	one.process.Stop()
	return nil
}

func (s *show) approveAgain(ctx context.Context) error {
	two := s.consumers[1]
	if err := s.decide(ctx, "approve", two, "welcome back"); err != nil {
		return err
	}
	if err := s.sees(ctx, two, api.Approved, "welcome back"); err != nil {
		return err
	}
	return together(s.consumers, func(c *consumer) error {
		if _, err := c.reach(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		return nil
	})
}

// decide approves or rejects a connection, as the provider.
func (s *show) decide(ctx context.Context, verb string, c *consumer, description string) error {
	_, err := s.provider.cli(ctx, "connection", verb, "--service", serviceName, "--name", c.connection, "--description", description)
	return err
}

// sees waits for a status at the consumer's side and compares the provider's words.
func (s *show) sees(ctx context.Context, c *consumer, status api.ConnectionStatus, description string) error {
	if _, err := c.cli(ctx, "endpoint", "wait", "to-shop", "--for", string(status), "--timeout", "10s"); err != nil {
		return err
	}
	var endpoint api.PrivateEndpoint
	if err := c.json(ctx, &endpoint, "endpoint", "show", "to-shop"); err != nil {
		return err
	}
	connection, _ := endpoint.Connection()
	if connection == nil || connection.Properties.PrivateLinkServiceConnectionState == nil {
		return fmt.Errorf("the endpoint of %s has no connection state", c.name)
	}
	state := connection.Properties.PrivateLinkServiceConnectionState
	if state.Status != status || state.Description != description {
		return fmt.Errorf("%s sees %s %q, want %s %q", c.name, state.Status, state.Description, status, description)
	}
	s.say("   %s sees: %s, %q", c.name, state.Status, state.Description)
	return nil
}

// table prints what a command prints, indented.
func (s *show) table(ctx context.Context, a *account, args ...string) error {
	out, err := a.cli(ctx, args...)
	if err != nil {
		return err
	}
	s.say("   $ privlink %s", strings.Join(args, " "))
	for line := range strings.Lines(out) {
		fmt.Fprint(s.Out, "     ", line)
	}
	return nil
}

// json runs a command and reads its JSON output.
func (a *account) json(ctx context.Context, into any, args ...string) error {
	out, err := a.cli(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("read the output of privlink %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// together calls fn for all consumers at the same time.
func together(consumers []*consumer, fn func(*consumer) error) error {
	errs := make([]error, len(consumers))
	var wait sync.WaitGroup
	for i, c := range consumers {
		wait.Go(func() { errs[i] = fn(c) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// greeting reads the first line that a server sends.
func greeting(ctx context.Context, from *lab.Namespace, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, "tcp4", "", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetReadDeadline(deadline); err != nil {
			return "", err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}

func isIPv4(p lab.Packet) bool {
	return len(p.Data) > 14 && p.Data[12] == 0x08 && p.Data[13] == 0x00
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// download is a running curl of a file without end, at a modest rate.
type download struct {
	consumer *consumer
	process  *lab.Process
	file     string
}

func startDownload(ctx context.Context, c *consumer) *download {
	d := &download{consumer: c, file: c.vm.Lab().Path("download-" + c.vm.String())}
	d.process = c.vm.Start(ctx, "curl", "-sS", "--limit-rate", "5M", "--no-buffer", "-o", d.file, "http://"+net.JoinHostPort(endpointIP, "80")+"/"+bigFile)
	return d
}

func (d *download) size() int64 {
	info, err := os.Stat(d.file)
	if err != nil {
		return 0
	}
	return info.Size()
}

// moves waits until more has come than now.
func (d *download) moves() error {
	before := d.size()
	return lab.Poll(5*time.Second, func() error {
		select {
		case <-d.process.Exited():
			return fmt.Errorf("the download of %s ended: %s", d.consumer.name, d.reason())
		default:
		}
		if d.size() <= before {
			return fmt.Errorf("the download of %s stands still at %d bytes", d.consumer.name, before)
		}
		return nil
	})
}

// ends waits until curl gives up.
func (d *download) ends(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := d.process.Wait(ctx)
	if err == nil {
		return fmt.Errorf("the download of %s came to an end of its own", d.consumer.name)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the download of %s goes on after the rejection", d.consumer.name)
	}
	return nil
}

// reason is what curl said.
func (d *download) reason() string {
	return strings.TrimSpace(d.process.Output())
}
