package splice

import (
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestCapacity_Descriptors_AreDivided(t *testing.T) {
	for _, c := range []struct{ descriptors, wanted, connections, pipes int }{
		{20000, 0, 8432, 1056},
		{20000, 5000, 5000, 4488},
		{1 << 20, 8000, 8000, 16000},
	} {
		got, err := capacity(c.descriptors, c.wanted)
		if err != nil || got.Connections != c.connections || got.Pipes != c.pipes {
			t.Errorf("capacity(%d, %d) = %+v, %v, want %d connections, %d pipes", c.descriptors, c.wanted, got, err, c.connections, c.pipes)
		}
		if used := got.Connections*2 + got.Pipes*2; used > max(0, c.descriptors-reservedDescriptors) {
			t.Errorf("capacity(%d, %d) uses %d descriptors", c.descriptors, c.wanted, used)
		}
	}
}

func TestCapacity_MoreThanFit_IsRefusedWithTheLimit(t *testing.T) {
	_, err := capacity(20000, 10000)
	if err == nil || !strings.Contains(err.Error(), "20000 descriptors") {
		t.Errorf("error %v, want one that names the limit", err)
	}
}

func TestCapacity_NoneFits_IsRefusedWithWhatToRaise(t *testing.T) {
	_, err := capacity(1024, 0)
	if err == nil || !strings.Contains(err.Error(), "1024 descriptors") || !strings.Contains(err.Error(), "LimitNOFILE") {
		t.Errorf("error %v, want one that names the limit and how to raise it", err)
	}
}

func TestNew_LinkMayHaveMoreThanAll_IsRefused(t *testing.T) {
	_, err := New(nil, Config{MaxConnections: 10, MaxPerLink: 11}, logrus.New())
	if err == nil || !strings.Contains(err.Error(), "there may be 10 in all") {
		t.Errorf("error %v, want one that names both limits", err)
	}
}

func TestLimits_ConnectionsInAll_NextIsReset(t *testing.T) {
	r := startRig(t, func(c *Config, _ *fakeGateway) { c.MaxConnections = 2 })
	first, _ := r.pair()
	r.pair()
	r.dialReset()
	eventually(t, "counted", func() bool { s := r.server.Stats(); return s.Limited == 1 && s.LinkLimited == 0 && s.Active == 2 })
	if err := first.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	first.Close()
	eventually(t, "room again", func() bool { return r.server.Stats().Active == 1 })
	r.dial()
	skipHeader(t, r.accept())
}

func TestLimits_ConnectionsOfALink_OtherLinksAreServed(t *testing.T) {
	r := startRig(t, func(c *Config, _ *fakeGateway) { c.MaxPerLink = 1 })
	r.pair()
	r.dialReset()
	eventually(t, "counted", func() bool { s := r.server.Stats(); return s.LinkLimited == 1 && s.Limited == 0 })
	r.gateway.mu.Lock()
	r.gateway.identity.Link = "another"
	r.gateway.mu.Unlock()
	r.pair()
}

func TestLimits_NobodySays_OneLinkLeavesSomeToOthers(t *testing.T) {
	r := startRig(t, func(c *Config, _ *fakeGateway) { c.MaxConnections = 20 })
	for range 19 {
		r.pair()
	}
	r.dialReset()
	eventually(t, "counted", func() bool { s := r.server.Stats(); return s.LinkLimited == 1 && s.Limited == 0 })
	r.gateway.mu.Lock()
	r.gateway.identity.Link = "another"
	r.gateway.mu.Unlock()
	r.pair()
}

func TestCut_OneLink_ItsConnectionsAreReset(t *testing.T) {
	r := startRig(t, nil)
	consumer, server := r.pair()
	r.gateway.mu.Lock()
	r.gateway.identity.Link = "another"
	r.gateway.mu.Unlock()
	otherConsumer, otherServer := r.pair()

	if n := r.server.Cut(func(id *Identity) bool { return id.Link == "link" }); n != 1 {
		t.Errorf("cut %d connections, want 1", n)
	}
	mustReset(t, consumer)
	mustReset(t, server)
	mustWrite(t, otherConsumer, "alive")
	mustRead(t, otherServer, "alive")
}

func TestRun_Stopped_ConnectionsAreReset(t *testing.T) {
	r := startRig(t, nil)
	consumer, server := r.pair()
	mustWrite(t, server, "a download that ends when the connection does")
	mustRead(t, consumer, "a download")
	r.stop()
	mustReset(t, consumer)
	mustReset(t, server)
	if n := r.server.Cut(func(*Identity) bool { return true }); n != 0 {
		t.Errorf("cut %d connections of a server that has ended", n)
	}
}
