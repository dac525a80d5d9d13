package fuzz

// Mutant is a fault that bpf/mutants.h can compile into the programs.
type Mutant struct {
	Number uint32
	Fault  string
}

// Mutants are all of them; a test compares the numbers with those in bpf/.
var Mutants = []Mutant{
	{1, "the link's generation is not compared: flows outlive a rejection"},
	{2, "a change of phase reaches only one half"},
	{3, "the reverse half stays when its pair ends"},
	{4, "closing pairs stay as long as established ones"},
	{5, "a pair is idle when one direction is silent"},
	{6, "FIN is not noticed"},
	{7, "NAT ports off by one"},
	{8, "a port's bit is never cleared"},
	{9, "the next NAT IP opens only when the first is full"},
	{10, "no quota"},
	{11, "the reverse half does not know its partner"},
	{12, "TTL taken off the wrong byte of the header checksum"},
	{13, "UDP checksum 0 becomes a wrong one"},
	{14, "a RST is answered with a RST"},
	{15, "the ICMP checksum is not adjusted to the translated quote"},
	{16, "an ICMP error shows the address of the other side"},
	{17, "one IP id for two datagrams"},
	{18, "TTL 0 goes on"},
	{19, "the MTU is not asked"},
	{20, "a link need not be approved"},
	{21, "the backend's generation is not compared: flows go to a removed backend"},
	{22, "packets do not refresh their flow"},
	{23, "RST ends the pair at once, in the window or not"},
	{24, "a SYN on a closing pair goes to the old connection"},
	{25, "NAT ports do not rest"},
	{26, "the sweep does not mark flows of a removed backend"},
	{27, "echo is answered though the link is not approved"},
	{28, "the RST to a SYN acknowledges one byte too few"},
	{29, "later fragments keep their IP id"},
	{30, "replies do not follow a client that moved"},
	{31, "UDP stays on a backend that is down"},
	{32, "checksums lose the carry when they are folded"},
	{33, "the helper that adjusts TCP checksums refuses"},
	{34, "the VLAN tag of the way in stays"},
	{35, "no VLAN tag on the way out"},
	{36, "an end of a revoked connection gets one RST, believed or not"},
	{37, "a revoked pair whose ends got their RSTs keeps its port for a whole idle timeout"},
	{38, "an IP id is held from its datagram's first fragment, not its last"},
	{39, "the sum of a packet with a complete checksum is not corrected"},
}
