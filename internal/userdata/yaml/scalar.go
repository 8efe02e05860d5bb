package yaml

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	lib "go.yaml.in/yaml/v3"

	"github.com/ichiro-metal/ichiro/internal/pattern"
)

// The words of YAML 1.1 (yaml.org/type), in PyYAML's selection: y and n are words there, a number's exponent has a sign.
var (
	booleans = map[string]bool{"yes": true, "Yes": true, "YES": true, "true": true, "True": true, "TRUE": true, "on": true, "On": true, "ON": true,
		"no": false, "No": false, "NO": false, "false": false, "False": false, "FALSE": false, "off": false, "Off": false, "OFF": false}
	integers = pattern.New(`^[-+]?(0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|[1-9][0-9_]*(:[0-5]?[0-9])+)$`)
	numbers  = pattern.New(`^([-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?|` +
		`[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$`)
	days  = pattern.New(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
	times = pattern.New(`^([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(?:[Tt]|[ \t]+)([0-9]{1,2}):([0-9]{2}):([0-9]{2})` +
		`(?:\.([0-9]*))?(?:[ \t]*(Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?$`)
)

// maxDigits is Python's own limit for decimal integers, for the time that longer ones take.
const maxDigits = 4300

// scalar gives a word its meaning. Its errors show no value: it may be a secret, and they go to logs.
func scalar(n *lib.Node) (*Value, error) {
	v := &Value{Kind: String, Line: n.Line, Text: n.Value, Word: n.Value}
	var err error
	switch tag := tagOf(n); {
	case tag == "!!str", tag == "!!python/unicode", tag == "" && n.Style != 0:
	case tag == "":
		err = v.resolve()
	case tag == "!!null":
		v.Kind, v.Text = Null, "None"
	case tag == "!!bool":
		if !v.boolean(strings.ToLower(n.Value)) {
			err = errors.New("what has the tag !!bool is no boolean")
		}
	case tag == "!!int":
		err = v.integer()
	case tag == "!!float":
		err = v.number()
	case tag == "!!timestamp":
		err = v.moment()
	case tag == "!!binary":
		var raw []byte
		if raw, err = base64.StdEncoding.DecodeString(strings.Join(strings.Fields(n.Value), "")); err != nil {
			err = errors.New("what has the tag !!binary is no base64")
		}
		v.Kind, v.Text = Bytes, string(raw)
	default:
		err = fmt.Errorf("no value has the tag %.60q", tag)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: line %d: %v", ErrSyntax, n.Line, err)
	}
	return v, nil
}

// resolve finds out what a plain word is.
func (v *Value) resolve() error {
	switch t := v.Text; {
	case t == "" || t == "~" || t == "null" || t == "Null" || t == "NULL":
		v.Kind, v.Text = Null, "None"
	case v.boolean(t):
	case integers.MatchString(t):
		return v.integer()
	case numbers.MatchString(t):
		return v.number()
	case days.MatchString(t), times.MatchString(t):
		return v.moment()
	case t == "=":
		return fmt.Errorf("= without quotes has no value")
	}
	return nil
}

func (v *Value) boolean(word string) bool {
	is, ok := booleans[word]
	if ok {
		v.Kind, v.Bool, v.Text = Bool, is, map[bool]string{true: "True", false: "False"}[is]
	}
	return ok
}

// integer reads a number in one of its bases: 2, 8, 10, 16, 60.
func (v *Value) integer() error {
	digits, negative := sign(strings.ReplaceAll(v.Text, "_", ""))
	n := new(big.Int)
	ok := true
	switch {
	case len(digits) > maxDigits:
		return fmt.Errorf("an integer of %d digits is too long", len(digits))
	case digits == "0":
	case strings.HasPrefix(digits, "0b"):
		_, ok = n.SetString(digits[2:], 2)
	case strings.HasPrefix(digits, "0x"):
		_, ok = n.SetString(digits[2:], 16)
	case strings.HasPrefix(digits, "0"):
		_, ok = n.SetString(digits, 8)
	case strings.Contains(digits, ":"):
		for _, d := range strings.Split(digits, ":") {
			k, err := strconv.ParseUint(d, 10, 63)
			if err != nil {
				return errors.New("what has the tag !!int is no integer")
			}
			n.Add(n.Mul(n, big.NewInt(60)), new(big.Int).SetUint64(k))
		}
	default:
		_, ok = n.SetString(digits, 10)
	}
	if !ok {
		return errors.New("what has the tag !!int is no integer")
	}
	if negative {
		n.Neg(n)
	}
	v.Kind, v.Text = Int, n.String()
	switch {
	case n.IsInt64():
		v.Int = n.Int64()
	case negative:
		v.Int = math.MinInt64
	default:
		v.Int = math.MaxInt64
	}
	return nil
}

func sign(s string) (rest string, negative bool) {
	rest, negative = strings.CutPrefix(s, "-")
	if !negative {
		rest = strings.TrimPrefix(s, "+")
	}
	return rest, negative
}

func (v *Value) number() error {
	digits, negative := sign(strings.ToLower(strings.ReplaceAll(v.Text, "_", "")))
	var f float64
	switch {
	case digits == ".inf":
		f = math.Inf(1)
	case digits == ".nan":
		f = math.NaN()
	case strings.Contains(digits, ":"):
		for _, d := range strings.Split(digits, ":") {
			k, err := strconv.ParseFloat(d, 64)
			if err != nil {
				return errors.New("what has the tag !!float is no number")
			}
			f = f*60 + k
		}
	default:
		k, err := strconv.ParseFloat(digits, 64)
		if err != nil && !math.IsInf(k, 0) {
			return errors.New("what has the tag !!float is no number")
		}
		f = k
	}
	if negative {
		f = -f
	}
	v.Kind, v.Float, v.Text = Float, f, float(f)
	return nil
}

// float prints a number as Python does: the shortest that reads back, with a point, and with an exponent from 1e16 on.
func float(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case f != 0 && (math.Abs(f) < 1e-4 || math.Abs(f) >= 1e16):
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// moment reads a day or a time, which must exist, and prints it as Python does.
func (v *Value) moment() error {
	if days.MatchString(v.Text) {
		if _, err := time.Parse(time.DateOnly, v.Text); err != nil || v.Text < "0001" {
			return errors.New("there is no day of this date")
		}
		v.Kind = Time
		return nil
	}
	m := times.FindStringSubmatch(v.Text)
	if m == nil {
		return errors.New("what has the tag !!timestamp is no time")
	}
	text := fmt.Sprintf("%s-%02s-%02s %02s:%s:%s", m[1], m[2], m[3], m[4], m[5], m[6])
	if _, err := time.Parse(time.DateTime, text); err != nil || text < "0001" {
		return errors.New("there is no time of this date and hour")
	}
	if fraction := (m[7] + "000000")[:6]; fraction != "000000" {
		text += "." + fraction
	}
	zone, err := offset(m[8])
	if err != nil {
		return err
	}
	v.Kind, v.Text = Time, text+zone
	return nil
}

// offset is the distance to UTC, with two digits for each number.
func offset(s string) (string, error) {
	switch s {
	case "":
		return "", nil
	case "Z":
		return "+00:00", nil
	}
	hours, minutes, ok := strings.Cut(s[1:], ":")
	if !ok {
		minutes = "00"
	}
	h, _ := strconv.Atoi(hours)
	m, _ := strconv.Atoi(minutes)
	if h*60+m >= 24*60 {
		return "", errors.New("a time is a day or more from UTC")
	}
	sign := s[:1]
	if h*60+m == 0 {
		sign = "+"
	}
	return fmt.Sprintf("%s%02d:%02d", sign, h+m/60, m%60), nil
}
