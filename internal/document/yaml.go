package document

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ichiro-metal/ichiro/internal/pattern"
)

// ToYAML returns the YAML of a document that is written in JSON: keys in their order, strings in double quotes, whose escapes YAML
// shares with JSON, so that nothing in them can mean anything else.
func ToYAML(content []byte) ([]byte, error) {
	if d := depth(content); d > maxDepth {
		return nil, invalid("the document has %d levels, at most %d are allowed", d, maxDepth)
	}
	dec := json.NewDecoder(bytes.NewReader(content))
	dec.UseNumber()
	var b bytes.Buffer
	t, err := dec.Token()
	if err == nil {
		err = writeYAML(&b, dec, t, 0)
	}
	if err != nil {
		return nil, invalid("the document is not JSON: %v", err)
	}
	return bytes.TrimPrefix(b.Bytes(), []byte("\n")), nil
}

// plainKey are keys that are themselves without quotes. Words that YAML takes for truth values are not among them.
var plainKey = pattern.New(`^[A-Za-z_][A-Za-z0-9_-]{2,}$`)

// writeYAML writes the value that begins with t, behind a key or a dash, with the lines that follow at a level.
func writeYAML(b *bytes.Buffer, dec *json.Decoder, t json.Token, level int) error {
	switch t := t.(type) {
	case json.Delim:
		return writeBlock(b, dec, t, level)
	case string:
		fmt.Fprintf(b, " %s\n", jsonText(t))
	case nil:
		b.WriteString(" null\n")
	default:
		fmt.Fprintf(b, " %v\n", t)
	}
	return nil
}

func writeBlock(b *bytes.Buffer, dec *json.Decoder, open json.Delim, level int) error {
	if !dec.More() {
		_, err := dec.Token()
		b.WriteString(map[json.Delim]string{'{': " {}\n", '[': " []\n"}[open])
		return err
	}
	b.WriteByte('\n')
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		b.WriteString(strings.Repeat("  ", level))
		if open == '[' {
			b.WriteByte('-')
		} else {
			key, _ := t.(string)
			if lower := strings.ToLower(key); !plainKey.MatchString(key) || lower == "null" || lower == "true" || lower == "false" || lower == "yes" || lower == "off" {
				key = jsonText(key)
			}
			b.WriteString(key + ":")
			if t, err = dec.Token(); err != nil {
				return err
			}
		}
		if err := writeYAML(b, dec, t, level+1); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}
