package bench

import (
	"strings"
	"testing"
)

func TestAttribute_KernelAndUnknownSymbols_SharesOfAllSamples(t *testing.T) {
	script := "ffffffff81000010 veth_xmit\nffffffff81000020 veth_xmit\n0 \nffffffff81000030 dev_gro_receive\nnot a sample\n"
	lines, err := attribute([]byte(script))
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != 3 || lines[0].Where != "veth_xmit" || lines[0].Share != 0.5 {
		t.Errorf("got %+v, want veth_xmit first with half of four samples", lines)
	}
	var out strings.Builder
	PrintProfile(&out, append(lines, ProfileLine{"privlink_tc core.h:7 return 0;", 0.25}), 2)
	for _, want := range []string{"100.0 %  kernel", "25.0 %  privlink_tc\n", "25.0 %  privlink_tc core.h", "50.0 %  veth_xmit"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the profile lacks %q:\n%s", want, out.String())
		}
	}
}
