package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/privlink/privlink/pkg/api"
)

// document is one resource of a file given to apply or delete.
type document struct {
	number   int // in the file, from 1
	id       api.ID
	resource api.Resource // checked, references in full, own properties complete
}

// readDocuments reads a file of YAML or JSON documents. Subscription and resource group are base's where a
// document names none. Errors name the document; all that is wrong in a document is told at once.
func readDocuments(text []byte, base api.ID) ([]document, error) {
	parts, err := splitDocuments(text)
	if err != nil {
		return nil, refusedErrorf("%w", err)
	}
	var documents []document
	seen := map[string]int{}
	for i, part := range parts {
		d, err := readDocument(part, base)
		if err != nil {
			return nil, refusedErrorf("document %d: %w", i+1, err)
		}
		d.number = i + 1
		if before, twice := seen[d.id.Key()]; twice {
			return nil, refusedErrorf("document %d: %s is in document %d already", d.number, d.id.Short(), before)
		}
		seen[d.id.Key()] = d.number
		documents = append(documents, d)
	}
	if len(documents) == 0 {
		return nil, refusedErrorf("the file has no documents")
	}
	return documents, nil
}

// splitDocuments turns each document of the file into JSON.
func splitDocuments(text []byte) ([]json.RawMessage, error) {
	if start := bytes.TrimSpace(text); len(start) > 0 && start[0] == '{' {
		return splitJSON(text)
	}
	var parts []json.RawMessage
	for _, document := range splitYAML(string(text)) {
		// Strict: a key given twice is an error.
		part, err := yaml.YAMLToJSONStrict([]byte(document))
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", len(parts)+1, err)
		}
		if string(part) != "null" { // as behind a last "---"
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// splitYAML cuts a file at its lines of "---". What comes before a document becomes empty lines, so that errors
// name the line in the file.
func splitYAML(text string) []string {
	var documents []string
	lines := strings.SplitAfter(text, "\n")
	begin := 0
	add := func(end int) {
		documents = append(documents, strings.Repeat("\n", begin)+strings.Join(lines[begin:end], ""))
	}
	for i, line := range lines {
		rest, marked := strings.CutPrefix(line, "---")
		if !marked || strings.TrimLeft(rest, " \t\r\n") == rest && rest != "" {
			continue
		}
		add(i)
		begin = i
		lines[i] = rest // a document may begin behind the mark
	}
	add(len(lines))
	return documents
}

// splitJSON reads JSON documents one behind the other.
func splitJSON(text []byte) ([]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	var parts []json.RawMessage
	for {
		var part json.RawMessage
		err := decoder.Decode(&part)
		if errors.Is(err, io.EOF) {
			return parts, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: not JSON at byte %d: %w", len(parts)+1, decoder.InputOffset(), err)
		}
		parts = append(parts, part)
	}
}

// envelope is what a document has besides the resource.
type envelope struct {
	Type, Name, Subscription, ResourceGroup string
}

// readEnvelope reads the envelope of a document's fields. YAML reads words such as n and on as true or false.
func readEnvelope(fields map[string]json.RawMessage) (envelope, error) {
	var e envelope
	for _, field := range []struct {
		name string
		into *string
	}{{"type", &e.Type}, {"name", &e.Name}, {"subscription", &e.Subscription}, {"resourceGroup", &e.ResourceGroup}} {
		text, ok := fields[field.name]
		if !ok {
			continue
		}
		if json.Unmarshal(text, field.into) != nil {
			return e, fmt.Errorf("%s: %s found where a string is expected (put it in quotes)", field.name, text)
		}
	}
	return e, nil
}

func readDocument(part json.RawMessage, base api.ID) (document, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(part, &fields); err != nil {
		return document{}, errors.New("is not an object with type, name, location and properties")
	}
	outer, err := readEnvelope(fields)
	if err != nil {
		return document{}, err
	}
	if outer.Type == "" {
		return document{}, errors.New("type is missing, such as Microsoft.Network/virtualNetworks")
	}
	kind, err := api.KindOf(outer.Type)
	if err != nil {
		return document{}, err
	}
	if outer.Name == "" {
		return document{}, errors.New("name is missing")
	}
	delete(fields, "type") // in any spelling that KindOf knows
	delete(fields, "subscription")
	delete(fields, "resourceGroup")
	inner, err := json.Marshal(fields)
	if err != nil {
		return document{}, err
	}
	resource, err := api.Decode(inner, kind, api.Strict)
	if err != nil {
		return document{}, fmt.Errorf("%s/%s: %w", kind, outer.Name, err)
	}
	id := base.Sibling(kind, outer.Name)
	if outer.Subscription != "" {
		id.Subscription = outer.Subscription
	}
	if outer.ResourceGroup != "" {
		id.ResourceGroup = outer.ResourceGroup
	}
	api.ClearReadOnly(resource)
	if err := resource.Validate(id); err != nil {
		return document{}, fmt.Errorf("%s: %w", id.Short(), err)
	}
	return document{id: id, resource: resource}, nil
}

// inOrder sorts documents so that what others refer to comes first.
func inOrder(documents []document) []document {
	sorted := slices.Clone(documents)
	order := api.Kinds()
	slices.SortStableFunc(sorted, func(a, b document) int {
		return slices.Index(order, api.Kind(a.id.Type)) - slices.Index(order, api.Kind(b.id.Type))
	})
	return sorted
}
