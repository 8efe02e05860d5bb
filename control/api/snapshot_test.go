package api

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/api/shape/iam"
	"github.com/ichiro-metal/ichiro/control/api/shape/model"
	"github.com/ichiro-metal/ichiro/control/api/shape/resourcegroups"
	"github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/control/api/shape/sts"
	"github.com/ichiro-metal/ichiro/control/api/wire"
)

// A tongue is what a test needs to know of a service.
type tongue struct {
	protocol  wire.Protocol
	namespace string
	version   string
	target    string
	ignored   map[string][]string
	routes    map[string]string
}

var tongues = map[string]tongue{
	"ec2":            {wire.EC2, ec2.Namespace, ec2.Version, ec2.TargetPrefix, ec2.Ignored, nil},
	"iam":            {wire.Query, iam.Namespace, iam.Version, iam.TargetPrefix, iam.Ignored, nil},
	"sts":            {wire.Query, sts.Namespace, sts.Version, sts.TargetPrefix, sts.Ignored, nil},
	"ssm":            {wire.JSON, ssm.Namespace, ssm.Version, ssm.TargetPrefix, ssm.Ignored, nil},
	"resourcegroups": {wire.REST, resourcegroups.Namespace, resourcegroups.Version, resourcegroups.TargetPrefix, resourcegroups.Ignored, resourcegroups.Routes},
}

// moduleDir returns where a required module's files are.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	dir, err := model.Module(".", module)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Every request that Amazon's SDK snapshots with all its fields set is understood to the last key.
func TestSnapshotsOfRequestsAreUnderstood(t *testing.T) {
	for svc, ops := range shapes {
		if tongues[svc].routes != nil {
			continue // that client has no snapshots: TestEveryOperationGoesThroughTheSDK is its judge
		}
		dir := filepath.Join(moduleDir(t, "github.com/aws/aws-sdk-go-v2/service/"+svc), "request_snapshot")
		for op, io := range ops {
			t.Run(svc+" "+op, func(t *testing.T) {
				raw, err := os.ReadFile(filepath.Join(dir, op+".request.snap"))
				if err != nil {
					t.Fatal(err)
				}
				in := reflect.New(reflect.TypeOf(io[0]).Elem()).Interface()
				if err := decodeSnapshot(tongues[svc], op, string(raw), in); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func decodeSnapshot(d tongue, op, raw string, in any) error {
	parts := strings.SplitN(raw, "\n\n", 3) // request line, headers, body
	if len(parts) != 3 {
		return errors.New("the snapshot has not three parts")
	}
	if d.protocol == wire.JSON {
		return wire.DecodeJSON([]byte(parts[2]), in, d.ignored[op])
	}
	form, err := wire.ParseForm(strings.TrimSpace(parts[2]))
	if err != nil {
		return err
	}
	form.Drop("Action", "Version")
	return form.Decode(d.protocol, in, d.ignored[op])
}

// Every answer that Amazon's SDK snapshots for SSM with all its fields set goes through our struct unchanged,
// but for the fields that we do not know yet.
func TestSnapshotsOfResponsesAreWritten(t *testing.T) {
	dir := filepath.Join(moduleDir(t, "github.com/aws/aws-sdk-go-v2/service/ssm"), "response_snapshot")
	for op, io := range shapes["ssm"] {
		t.Run(op, func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join(dir, op+".response.snap"))
			if err != nil {
				t.Fatal(err)
			}
			_, body, _ := strings.Cut(string(raw), "\n\n")
			var want, got any
			out := reflect.New(reflect.TypeOf(io[1]).Elem()).Interface()
			if err := wire.DecodeJSON([]byte(body), out, newer[op]); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(json.Unmarshal([]byte(body), &want), json.Unmarshal(wire.AppendJSON(nil, out), &got)); err != nil {
				t.Fatal(err)
			}
			for _, name := range newer[op] {
				strip(want, strings.Split(name, "."))
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %v\nwant %v", got, want)
			}
		})
	}
}

// newer lists members of SSM's answers that came after the models.
var newer = map[string][]string{
	"DescribeInstanceInformation": {"InstanceInformationList.SourceLocation"},
	"DescribeInstanceProperties":  {"InstanceProperties.AvailabilityZone", "InstanceProperties.AvailabilityZoneId", "InstanceProperties.SourceLocation"},
	"DescribeSessions":            {"Sessions.AccessType"},
}

// strip removes what path names from a JSON value, in every element of lists.
func strip(v any, path []string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			strip(e, path)
		}
	case map[string]any:
		if len(path) == 1 {
			delete(v, path[0])
			return
		}
		strip(v[path[0]], path[1:])
	}
}
