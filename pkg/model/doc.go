// Package model is the specification of the dataplane as plain Go: frames, time and random numbers
// in; decisions, frames, table entries and counters out. It is written from the design and the RFCs,
// for reading, and knows nothing of how bpf/ does it. The differential test (pkg/model/fuzz) holds
// the real programs against it, packet for packet; the packet tables (pkg/model/tables) hold both
// against frames written by hand. RFC.md beside this file lists the requirements of the NAT RFCs.
//
// Where it begins: Machine.Packet decides on a frame, Machine.Sweep does what packets leave to time.
//
// # Rules
//
// What the design leaves open is decided here, and the comments refer to these numbers.
//
//  1. A packet that is not forwarded changes nothing: TTL, output and size are asked, in this order,
//     before a phase, a stamp or an entry is written. Exceptions: an end notes that it got a RST,
//     and a first fragment that gets no id has been through its flow already.
//  2. A packet without a flow is asked in this order: is the address ours, is L4 well-formed, the
//     source sane; a NAT IP opens nothing; is the link approved, is there a rule, may the packet open
//     a flow, a backend; can it leave (rule 1); then room in the table, quota, a port, slots. The
//     first no is its reason.
//  3. Frames that are not ours, and those too malformed to know, are dropped and counted, or with
//     --pass-other counted and left to the host byte for byte. A VLAN that is not attached does
//     what the untagged attachment of the interface says.
//  4. IPv4 in a broadcast or multicast frame, and IPv4 to class D, class E or 255.255.255.255, is
//     never forwarded (RFC 1122 section 3.3.6).
//  5. Checksums are adjusted, never verified: a wrong one stays exactly as wrong, for its receiver to
//     see. Bytes behind the IPv4 packet stay as they are.
//  6. Martian are the sources 0/8, 127/8, 224/3 and the destination itself.
//  7. A TCP flow is opened by SYN alone: with ACK, FIN or RST it is any other segment.
//  8. An answered packet counts under its own reason; RST_SENT, ICMP_SENT or the limit it met count in
//     addition. RSTs that both ends are owed (rule 12) know no limit. No RST answers a RST or a
//     fragment.
//  9. A pair is idle when both stamps are older than its timeout: at 300 s it lives, at 301 s not. A
//     packet that opens nothing leaves an idle pair alone; opening a new one ends it first.
//  10. TCP: a RST makes the pair RESET; a segment without RST afterwards makes it what it was. SYN from
//     the backend is the answer; an answered pair is established by a client's ACK. FIN from both
//     makes it CLOSING. Phase and flags stand in both halves.
//  11. A client's SYN on a pair that is CLOSING, RESET, idle or revoked opens a new one; otherwise it is
//     a retransmission, or an attack, and goes to the backend.
//  12. A flow whose link or backend changed its generation is of before: the client's next datagram, or
//     SYN, opens a new one where it may. Any other segment gets a RST, each of them: the numbers of
//     an early one are old where data was under way to its receiver, who ignores it (RFC 5961
//     section 3.2). An end that sends a RST is over; both over, the pair is dead. Until then it stays
//     findable for one more idle timeout, or 10 s after the later end got its first RST.
//  13. Replies follow the client: to the MAC and interface of its last packet, noticed at once by a hash
//     of both (16 bits), and by comparison about once a minute.
//  14. ARP requests for an address that wants it are answered; announcements (sender = target) never.
//  15. ICMP errors are found by the quoted tuple turned round, from 8 bytes of L4 on; they must go to
//     who sent what they quote. They refresh and end nothing (RFC 5508 REQ-6). Nothing answers them.
//     Echo to an endpoint or frontend is answered, TTL 64, while its link is approved.
//  16. NAT IPs fill in order: the first less than half used, else the first with a free port. In it the
//     first word with a free bit, from a cursor on; the cursor of a new domain is random.
//  17. An opening that fails leaves no trace but the port domain it looked at.
//  18. Bytes of links are those of IPv4 packets; of super-packets, of the segments they stand for.
//     Refused counts openings that found no backend, room, quota or port.
//  19. UDP lengths from 8 to the end of the packet are well-formed, TCP headers of 20 bytes to the end.
//     Port 0 is not.
//  20. A fragmented datagram gets its own IP id if that is free for source, destination and protocol on
//     the outgoing side, else the next of 16. The id is held for 30 s after the last fragment that left,
//     unless all of them went through in order without gap or overlap. A quarter of the table's pairs may be incomplete.
//     Malformed are empty fragments, those beyond the largest datagram, those that leave a gap, and
//     those inside or smaller than the L4 header.
//  21. A RST keeps the room of the IP options of what it answers, filled with End of Options.
//  22. The sweep ends idle pairs, marks those of rule 12, ends reverse halves without a forward half
//     after 5 s, and frees dead entries: without a port after 2 s, with one after 15 s of rest.
//  23. A packet leaves with its output's VLAN tag or none, whatever it came with; what the host gets
//     keeps its own.
//
// # Invariants
//
//   - The package is deterministic: no clock, no random numbers, no I/O of its own.
//   - It imports the standard library only.
//
// Tests: go test ./pkg/model/... (as root: all but the package itself run the real programs).
package model
