package main

import "testing"

func TestFlowAudit_Disagreements_ShownAndFailed(t *testing.T) {
	r := newRig(t)
	const want = "" +
		"WHAT                         NAT            BACKEND      PROTOCOL  ENDPOINT  IS  SHOULD BE\n" +
		"port taken without an entry  10.0.1.4:4711  10.0.0.4:80  tcp       -         0   0\n" +
		"quota of link                -              -            -         to-shop   3   2\n"
	if got := r.run("flow audit"); got.code != exitFailed || got.stdout != want {
		t.Errorf("(%d) %s\n%s", got.code, got.stderr, got.stdout)
	}
}
