package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"
)

// printer writes results the way -o asks for.
type printer struct {
	w      io.Writer
	format string // table, json or yaml
}

func newPrinter(w io.Writer, format string) (*printer, error) {
	switch format {
	case "table", "json", "yaml":
		return &printer{w, format}, nil
	}
	return nil, usageErrorf("flag --output: %q is not one of table, json, yaml%s", format, suggestion(format, []string{"table", "json", "yaml"}))
}

// human reports whether people read the output rather than programs.
func (p *printer) human() bool { return p.format == "table" }

// value writes one result: the value itself as JSON or YAML, or what table writes.
func (p *printer) value(value any, table func(*columns)) error {
	switch p.format {
	case "json":
		encoder := json.NewEncoder(p.w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(value); err != nil {
			return fmt.Errorf("print result: %w", err)
		}
		return nil
	case "yaml":
		text, err := yaml.Marshal(value)
		if err == nil {
			_, err = p.w.Write(text)
		}
		if err != nil {
			return fmt.Errorf("print result: %w", err)
		}
		return nil
	}
	c := newColumns(p.w)
	table(c)
	return c.flush()
}

// say writes a line for people; programs, which read JSON or YAML, do not get it.
func (p *printer) say(format string, args ...any) error {
	if !p.human() {
		return nil
	}
	_, err := fmt.Fprintf(p.w, format+"\n", args...)
	return err
}

// line writes one of many values that come one by one: JSON on a line of its own, or a YAML document.
func (p *printer) line(value any) error {
	if p.format == "yaml" {
		if _, err := fmt.Fprintln(p.w, "---"); err != nil {
			return err
		}
		return p.value(value, nil)
	}
	encoder := json.NewEncoder(p.w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// columns writes aligned text.
type columns struct {
	tab *tabwriter.Writer
	err error
}

func newColumns(w io.Writer) *columns {
	return &columns{tab: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
}

// row writes one line; an empty cell becomes "-" so that columns can be counted.
func (c *columns) row(cells ...string) {
	line := make([]string, len(cells))
	for i, cell := range cells {
		if cell = oneLine(cell); cell == "" {
			cell = "-"
		}
		line[i] = cell
	}
	c.write(strings.Join(line, "\t"))
}

// field writes "name: value", or nothing if value is empty.
func (c *columns) field(name, value string) {
	if value != "" {
		c.write(name + ":\t" + oneLine(value))
	}
}

// line writes text that is not in columns.
func (c *columns) line(format string, args ...any) {
	if err := c.tab.Flush(); err != nil && c.err == nil {
		c.err = err
	}
	c.write(fmt.Sprintf(format, args...))
	if err := c.tab.Flush(); err != nil && c.err == nil {
		c.err = err
	}
}

func (c *columns) write(line string) {
	if _, err := fmt.Fprintln(c.tab, line); err != nil && c.err == nil {
		c.err = err
	}
}

func (c *columns) flush() error {
	if err := c.tab.Flush(); err != nil && c.err == nil {
		c.err = err
	}
	if c.err != nil {
		return fmt.Errorf("print result: %w", c.err)
	}
	return nil
}

// oneLine makes text from elsewhere (messages, descriptions) safe to print: control
// characters, which could move the cursor or forge lines, become spaces.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, text)
}
