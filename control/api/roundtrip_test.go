package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdkec2 "github.com/aws/aws-sdk-go-v2/service/ec2"
	sdkiam "github.com/aws/aws-sdk-go-v2/service/iam"
	sdkresourcegroups "github.com/aws/aws-sdk-go-v2/service/resourcegroups"
	sdkssm "github.com/aws/aws-sdk-go-v2/service/ssm"
	sdksts "github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/ichiro-metal/ichiro/control/sigv4"
)

const (
	testKey    = "AKIATEST"
	testSecret = "a secret"
)

// anyone is an authority that knows one key and allows everything but what is in denied.
type anyone struct{ denied string }

func (a anyone) Authenticate(_ context.Context, c Credential) (Identity, []byte, error) {
	switch {
	case c.AccessKeyID != testKey:
		return Identity{}, nil, fmt.Errorf("key %s: %w", c.AccessKeyID, ErrUnknownKey)
	case c.SessionToken == "old":
		return Identity{}, nil, ErrTokenExpired
	}
	id := Identity{Account: "000000000000", ARN: "arn:aws:iam::000000000000:user/u", UserID: "AIDAU", AccessKeyID: testKey}
	return id, sigv4.Key(testSecret, c.Date, c.Region, c.Service), nil
}

func (a anyone) Authorize(_ context.Context, _ Identity, action, resource string) error {
	if a.denied != "" && (action == a.denied || resource == a.denied) {
		return fmt.Errorf("policy p: %w", ErrDenied)
	}
	return nil
}

// detached sends a copy of the body. Amazon's client closes its own as soon as it sees the answer, which net/http
// takes for a broken request, and gives up the connection, if it has not yet looked for the body's end: a server as
// near as ours wins that race once in a few thousand requests.
type detached struct{}

func (detached) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return http.DefaultClient.Do(r)
}

// sdk returns Amazon's client of a service, pointed at url, without retries.
func sdk(svc, url string) any {
	cfg := aws.Config{
		Region: "ichiro-1", Credentials: credentials.NewStaticCredentialsProvider(testKey, testSecret, ""),
		BaseEndpoint: &url, Retryer: func() aws.Retryer { return aws.NopRetryer{} }, HTTPClient: detached{},
	}
	switch svc {
	case "ec2":
		return sdkec2.NewFromConfig(cfg)
	case "iam":
		return sdkiam.NewFromConfig(cfg)
	case "ssm":
		return sdkssm.NewFromConfig(cfg)
	case "resourcegroups":
		return sdkresourcegroups.NewFromConfig(cfg)
	default:
		return sdksts.NewFromConfig(cfg)
	}
}

func serve(t *testing.T, cfg Config) string {
	t.Helper()
	if cfg.Authority == nil {
		cfg.Authority = anyone{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return srv.URL
}

// Every operation, with every field of request and response set, goes through Amazon's own client and our
// front unchanged: what the client sends arrives, what we answer is what the client returns.
func TestEveryOperationGoesThroughTheSDK(t *testing.T) {
	for svc, ops := range shapes {
		d := tongues[svc]
		s := Service{Name: svc, Protocol: d.protocol, Version: d.version, Namespace: d.namespace, TargetPrefix: d.target, Ignored: d.ignored, Routes: d.routes}
		if svc == "resourcegroups" { // what requests are signed for has its own name
			s.Name = "resource-groups"
		}
		got := map[string]any{}
		answers := map[string]any{}
		for op, pair := range ops {
			in, out := reflect.TypeOf(pair[0]).Elem(), reflect.New(reflect.TypeOf(pair[1]).Elem())
			n := 0
			fill(out.Elem(), "", &n)
			answers[op] = out.Interface()
			s.Actions = append(s.Actions, Action{
				Name: op, unsigned: op == "AssumeRoleWithWebIdentity",
				newIn: func() any { return reflect.New(in).Interface() },
				call: func(_ context.Context, in any) (any, error) {
					got[op] = in
					return answers[op], nil
				},
			})
		}
		client := reflect.ValueOf(sdk(svc, serve(t, Config{Region: "ichiro-1", Services: []Service{s}})))
		for op := range ops {
			t.Run(svc+" "+op, func(t *testing.T) {
				method := client.MethodByName(op)
				if !method.IsValid() {
					t.Fatal("the client has no such method")
				}
				in := reflect.New(method.Type().In(1).Elem())
				n := 0
				fill(in.Elem(), "", &n)
				if f := in.Elem().FieldByName("DryRun"); f.IsValid() {
					f.Set(reflect.ValueOf(new(false)))
				}
				res := method.Call([]reflect.Value{reflect.ValueOf(t.Context()), in})
				if err, _ := res[1].Interface().(error); err != nil {
					t.Fatal(err)
				}
				for _, diff := range differences(reflect.ValueOf(got[op]), in, "request") {
					t.Error(diff)
				}
				for _, diff := range differences(reflect.ValueOf(answers[op]), res[0], "response") {
					t.Error(diff)
				}
			})
		}
	}
}

// gone lists fields of the models that today's client has no more.
var gone = []string{
	"request.DestinationRegion", // of CopySnapshot: the client keeps it to itself
}

// fill sets everything below v to values that differ from each other and need escaping.
func fill(v reflect.Value, path string, n *int) {
	if strings.Count(path, ".") > 12 {
		return
	}
	*n++
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, 5, *n%1000*1e6, time.UTC)))
		return
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), path, n)
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("<%d&\"é'\t> ]]>", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int64, reflect.Int32:
		v.SetInt(int64(*n))
	case reflect.Float64, reflect.Float32:
		v.SetFloat(float64(*n) + 0.5)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{0, 0xff, byte(*n)})
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), path+".", n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for _, k := range []string{"k <1>", "k&2"} {
			e := reflect.New(v.Type().Elem()).Elem()
			fill(e, path+".", n)
			v.SetMapIndex(reflect.ValueOf(k).Convert(v.Type().Key()), e)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Name != "ResultMetadata" {
				fill(v.Field(i), path+"."+f.Name, n)
			}
		}
	}
}

// differences compares our struct with the client's by the names of fields. The client may have more.
func differences(ours, theirs reflect.Value, path string) []string {
	for ours.Kind() == reflect.Pointer {
		if ours.IsNil() {
			ours = reflect.Value{}
			break
		}
		ours = ours.Elem()
	}
	for theirs.Kind() == reflect.Pointer && !theirs.IsNil() {
		theirs = theirs.Elem()
	}
	if !ours.IsValid() || theirs.Kind() == reflect.Pointer {
		return []string{fmt.Sprintf("%s: got %v, want %v", path, theirs, ours)}
	}
	var out []string
	switch {
	case ours.Type() == reflect.TypeFor[time.Time]():
		if a, b := ours.Interface().(time.Time), theirs.Interface().(time.Time); !a.Truncate(time.Second).Equal(b.Truncate(time.Second)) {
			out = append(out, fmt.Sprintf("%s: got %v, want %v", path, b, a))
		}
	case ours.Kind() == reflect.Struct:
		for i := range ours.NumField() {
			name := ours.Type().Field(i).Name
			f := theirs.FieldByName(name)
			switch {
			case f.IsValid():
				out = append(out, differences(ours.Field(i), f, path+"."+name)...)
			case !slices.ContainsFunc(gone, func(g string) bool { return strings.HasPrefix(path+"."+name, g) }):
				out = append(out, fmt.Sprintf("%s.%s: the client has no such field", path, name))
			}
		}
	case ours.Kind() == reflect.Slice && ours.Type().Elem().Kind() != reflect.Uint8:
		if ours.Len() != theirs.Len() {
			return []string{fmt.Sprintf("%s: got %d elements, want %d", path, theirs.Len(), ours.Len())}
		}
		for i := range ours.Len() {
			out = append(out, differences(ours.Index(i), theirs.Index(i), fmt.Sprintf("%s[%d]", path, i))...)
		}
	case ours.Kind() == reflect.Map:
		if ours.Len() != theirs.Len() {
			return []string{fmt.Sprintf("%s: got %d entries, want %d", path, theirs.Len(), ours.Len())}
		}
		for _, k := range ours.MapKeys() {
			out = append(out, differences(ours.MapIndex(k), theirs.MapIndex(k.Convert(theirs.Type().Key())), path+"."+k.String())...)
		}
	default:
		if a, b := fmt.Sprint(ours), fmt.Sprint(theirs); a != b {
			out = append(out, fmt.Sprintf("%s: got %q, want %q", path, b, a))
		}
	}
	return out
}
