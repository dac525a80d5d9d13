package dataplane

import (
	"bytes"
	"debug/elf"
	"fmt"
)

// Reason is why a packet did not simply go through, or what privlink answered.
type Reason struct {
	// Label is the name in metrics and in the CLI.
	Label string
	// Text is one line for people.
	Text string
}

// reasonSection is the section of the control object with an array of struct reason_text.
const reasonSection = ".rodata.reasons"

// Lengths of the members of struct reason_text.
const (
	reasonLabelLen = 24
	reasonTextLen  = 72
)

// Reasons reads the reasons from the object, in the order of enum reason. They are written
// once, in bpf/reasons.h.
func Reasons() ([]Reason, error) {
	f, err := elf.NewFile(bytes.NewReader(_BpfBytes))
	if err != nil {
		return nil, fmt.Errorf("read reasons from the object: %w", err)
	}
	defer f.Close()
	section := f.Section(reasonSection)
	if section == nil {
		return nil, fmt.Errorf("read reasons from the object: no section %s", reasonSection)
	}
	data, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read reasons from the object: %w", err)
	}
	const size = reasonLabelLen + reasonTextLen
	if len(data) != size*int(bpfReasonREASON_COUNT) {
		return nil, fmt.Errorf("read reasons from the object: %d bytes for %d reasons", len(data), bpfReasonREASON_COUNT)
	}
	reasons := make([]Reason, 0, bpfReasonREASON_COUNT)
	for ; len(data) > 0; data = data[size:] {
		reasons = append(reasons, Reason{Label: cString(data[:reasonLabelLen]), Text: cString(data[reasonLabelLen:size])})
	}
	return reasons, nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
