package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// figure is one promise and what became of it. With a Reference the target bounds the ratio of the two,
// without it the target bounds Ours, in Unit.
type figure struct {
	Name      string    `json:"name"`
	Unit      string    `json:"unit"`
	Ours      float64   `json:"ours"`
	Reference float64   `json:"reference,omitempty"`
	Ratio     float64   `json:"ratio,omitempty"`
	Target    float64   `json:"target"`
	Least     bool      `json:"least,omitempty"` // the target is a lower bound
	Met       bool      `json:"met"`
	Note      string    `json:"note,omitempty"`
	OursRaw   []float64 `json:"ours_raw,omitempty"`
	RefRaw    []float64 `json:"reference_raw,omitempty"`
}

// bound adds a figure that must not be above its target.
func (b *bench) bound(f figure) {
	if f.Ours == 0 {
		f.Ours = median(f.OursRaw)
	}
	f.Met = f.Ours <= f.Target
	b.figures = append(b.figures, f)
}

// compare adds a figure whose ratio to its reference must not be above its target, or not below it.
func (b *bench) compare(f figure) {
	if len(f.OursRaw) > 0 {
		f.Ours, f.Reference = median(f.OursRaw), median(f.RefRaw)
	}
	f.Ratio = f.Ours / f.Reference
	f.Met = f.Ratio <= f.Target
	if f.Least {
		f.Met = f.Ratio >= f.Target
	}
	b.figures = append(b.figures, f)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	if n := len(v) / 2; len(v)%2 == 0 {
		return (v[n-1] + v[n]) / 2
	}
	return v[len(v)/2]
}

// report writes the table, the runs below it, and the same for programs to the file that BENCH_OUT names.
func report(out io.Writer, figures []figure) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tOURS\tREFERENCE\tRATIO\tTARGET\tMET")
	for _, f := range figures {
		reference, ratio, target := "-", "-", "<= "+number(f.Target)+" "+f.Unit
		if f.Ratio != 0 {
			reference, ratio, target = number(f.Reference)+" "+f.Unit, number(f.Ratio), "<= "+number(f.Target)
			if f.Least {
				target = ">= " + number(f.Target)
			}
		}
		met := "yes"
		if !f.Met {
			met = "NO"
		}
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\t%s\t%s\n", f.Name, number(f.Ours), f.Unit, reference, ratio, target, met)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, f := range figures {
		fmt.Fprintf(out, "%s", f.Name)
		if f.Note != "" {
			fmt.Fprintf(out, ": %s", f.Note)
		}
		fmt.Fprintf(out, "\n%s%s", row("ours", f.OursRaw), row("reference", f.RefRaw))
	}
	name := os.Getenv("BENCH_OUT")
	if name == "" {
		return nil
	}
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	enc := json.NewEncoder(file)
	for _, f := range figures {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

// row lists runs, sorted, and of many only some.
func row(label string, runs []float64) string {
	if len(runs) == 0 {
		return ""
	}
	runs = slices.Sorted(slices.Values(runs))
	if len(runs) > 20 {
		at := func(q float64) string { return number(runs[int(q*float64(len(runs)-1))]) }
		return fmt.Sprintf("  %-10s %d runs: min %s, p10 %s, p50 %s, p90 %s, max %s\n", label, len(runs), at(0), at(.1), at(.5), at(.9), at(1))
	}
	text := make([]string, len(runs))
	for i, r := range runs {
		text[i] = number(r)
	}
	return fmt.Sprintf("  %-10s %s\n", label, strings.Join(text, " "))
}

// number writes three digits that count.
func number(v float64) string {
	switch {
	case v >= 1000:
		return fmt.Sprintf("%.0f", v)
	case v >= 100:
		return fmt.Sprintf("%.1f", v)
	case v >= 10:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// quantile returns the run below which so large a part of them is.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(v))[int(q*float64(len(v)-1))]
}
