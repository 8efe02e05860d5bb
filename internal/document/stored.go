package document

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// maxStored is how many parameters of the store one document may name: each is asked for.
const maxStored = 64

// References returns the names by which texts refer to the parameter store, each once and in order: "ssm:NAME",
// "ssm:NAME:SELECTOR", or with ssm-secure.
func References(texts ...string) []string {
	found := map[string]bool{}
	for _, text := range texts {
		for _, m := range paramRef.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], ":") {
				found[m[1]] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// stored returns the values of the store that the document's text names, by their references: in its steps, and in those
// defaults that are taken. They are put in with the parameters of the document, in one pass: what a value holds is text, also if
// it looks like a placeholder.
func (d Document) stored(given map[string][]string, from Sources) (map[string]Value, error) {
	var texts []string
	for _, s := range d.Steps {
		texts = append(texts, string(s.Timeout), decoded(s.Inputs))
		if s.Precondition != nil {
			texts = append(texts, s.Precondition.StringEquals...)
		}
	}
	for name, p := range d.Parameters {
		if _, ok := given[name]; !ok && p.Default != nil {
			texts = append(texts, p.Default.Items...)
		}
	}
	names := References(texts...)
	if len(names) > maxStored {
		return nil, invalid("the document names %d parameters of the store, at most %d are allowed", len(names), maxStored)
	}
	values := map[string]Value{}
	for _, ref := range names {
		kind, name, _ := strings.Cut(ref, ":")
		name, selector, _ := strings.Cut(name, ":")
		switch {
		case kind == "ssm-secure":
			return nil, refuse("The document names {{%.128s}}: a secret would lie open in the command; let the script read it", ref)
		case from.Parameter == nil:
			return nil, refuse("The document names {{%.128s}}, and there is no parameter store where it is carried out", ref)
		}
		v, err := from.Parameter(name, selector)
		if err != nil {
			return nil, err
		}
		values[ref] = v.value()
	}
	return values, nil
}

// decoded is JSON as text in which every string stands as it is: escapes could hide a name.
func decoded(raw json.RawMessage) string {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return string(raw)
	}
	var b strings.Builder
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			b.WriteString(v + "\n")
		case []any:
			for _, item := range v {
				walk(item)
			}
		case map[string]any:
			for _, item := range v {
				walk(item)
			}
		}
	}
	walk(v)
	return b.String()
}
