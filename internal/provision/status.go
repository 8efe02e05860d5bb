package provision

import (
	"encoding/json"
	"os"
)

// dataSource is cloud-init's name of where the metadata come from.
const dataSource = "DataSourceEc2"

// status is /run/cloud-init/status.json: for each of cloud-init's stages when it began and ended, and its troubles. While
// there is no result.json beside it, things are going on.
type status struct {
	r  *run
	V1 map[string]any `json:"v1"`
	at string
}

// phase is one stage.
type phase struct {
	Errors   []string `json:"errors"`
	Finished *float64 `json:"finished"`
	Start    *float64 `json:"start"`
}

func newStatus(r *run) *status {
	s := &status{r: r, V1: map[string]any{"datasource": nil, "stage": nil}}
	for _, name := range []string{"init-local", "init", "modules-config", "modules-final"} {
		s.V1[name] = &phase{Errors: []string{}}
	}
	os.Remove(r.path("/run/cloud-init/result.json"))
	return s
}

func (s *status) phase() *phase { return s.V1[s.at].(*phase) }

func (s *status) now() *float64 {
	t := float64(s.r.Now().UnixMilli()) / 1000
	return &t
}

// enter ends the stage before, if it was another.
func (s *status) enter(name string) {
	if s.at == name {
		return
	}
	if s.at != "" {
		s.phase().Finished = s.now()
		s.V1["datasource"] = dataSource
	}
	s.at = name
	s.V1["stage"] = name
	s.phase().Start = s.now()
	s.write()
}

func (s *status) trouble(text string) {
	s.phase().Errors = append(s.phase().Errors, text)
	s.write()
}

// finish ends all: those who wait for the result see it last.
func (s *status) finish() {
	s.phase().Finished = s.now()
	s.V1["stage"] = nil
	s.write()
	all := []string{}
	for _, name := range []string{"init-local", "init", "modules-config", "modules-final"} {
		all = append(all, s.V1[name].(*phase).Errors...)
	}
	s.put("/run/cloud-init/result.json", map[string]any{"v1": map[string]any{"datasource": dataSource, "errors": all}})
}

func (s *status) write() { s.put("/run/cloud-init/status.json", s) }

func (s *status) put(file string, v any) {
	text, err := json.MarshalIndent(v, "", " ")
	if err == nil {
		err = s.r.store(file, string(text)+"\n", 0o644)
	}
	if err != nil { // no trouble: that would be written here too
		s.r.say("ERROR", "%v", err)
	}
}
