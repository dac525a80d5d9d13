// Package tables holds the packet tables: for every row of the table of what a sender gets, every
// verdict and every drop reason, frames in and what must come out, written by hand with gopacket.
//
// Each row runs through the model, through TC alone and through XDP with TC behind it; flow table,
// port bitmaps and counters of the programs are compared with the model's after each step, and
// those of the row with what it says itself.
//
// Tests only. They need root: go test ./pkg/model/tables
package tables
