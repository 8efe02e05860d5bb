package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdkec2 "github.com/aws/aws-sdk-go-v2/service/ec2"
	sdkresourcegroups "github.com/aws/aws-sdk-go-v2/service/resourcegroups"
	sdkssm "github.com/aws/aws-sdk-go-v2/service/ssm"
	sdksts "github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/api/shape/iam"
	"github.com/ichiro-metal/ichiro/control/api/shape/resourcegroups"
	"github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/control/api/shape/sts"
	"github.com/ichiro-metal/ichiro/control/api/wire"
	"github.com/ichiro-metal/ichiro/control/sigv4"
	"github.com/ichiro-metal/ichiro/internal/cloud"
	"github.com/ichiro-metal/ichiro/internal/store"
)

// small returns services with an action of every kind. committed counts what StartInstances did.
func small(committed *int) []Service {
	return []Service{
		{Name: "ec2", Protocol: wire.EC2, Version: ec2.Version, Namespace: ec2.Namespace, Known: ec2.Operations, Ignored: ec2.Ignored, Actions: []Action{
			Do("DescribeRegions", func(ctx context.Context, in *ec2.DescribeRegionsInput) (*ec2.DescribeRegionsOutput, error) {
				return &ec2.DescribeRegionsOutput{Regions: []ec2.Region{{RegionName: CallerFrom(ctx).UserID}}}, nil
			}, ReadOnly()),
			Do("StartInstances", func(ctx context.Context, in *ec2.StartInstancesInput) (*ec2.StartInstancesOutput, error) {
				if in.InstanceIds[0] == "i-0" {
					return nil, cloud.Errorf("InvalidInstanceID.NotFound", "The instance ID 'i-0' does not exist")
				}
				if in.DryRun != nil && *in.DryRun {
					return nil, nil
				}
				*committed++
				Remark(ctx, "started")
				return nil, nil
			}, Resource(func(in *ec2.StartInstancesInput) []string {
				var out []string
				for _, id := range in.InstanceIds {
					out = append(out, "instance/"+id)
				}
				return out
			})),
			Do("CreateVpc", func(context.Context, *ec2.CreateVpcInput) (*ec2.CreateVpcOutput, error) { panic("a defect") }),
			Do("DeleteVpc", func(context.Context, *ec2.DeleteVpcInput) (*ec2.DeleteVpcOutput, error) {
				return nil, errors.New("etcd at 10.0.0.1 said no")
			}),
			Do("CreateSubnet", func(context.Context, *ec2.CreateSubnetInput) (*ec2.CreateSubnetOutput, error) {
				return nil, fmt.Errorf("put subnet: %w", context.DeadlineExceeded)
			}),
		}},
		{Name: "ssm", Protocol: wire.JSON, Version: ssm.Version, TargetPrefix: ssm.TargetPrefix, Known: ssm.Operations, Ignored: ssm.Ignored, Actions: []Action{
			Do("ListCommands", func(context.Context, *ssm.ListCommandsInput) (*ssm.ListCommandsOutput, error) { return nil, nil }, ReadOnly()),
			Do("CancelCommand", func(context.Context, *ssm.CancelCommandInput) (*ssm.CancelCommandOutput, error) {
				return nil, cloud.Errorf("InvalidCommandId", "no such command")
			}),
		}},
		{Name: "iam", Protocol: wire.Query, Version: iam.Version, Namespace: iam.Namespace, Known: iam.Operations, Actions: []Action{
			Do("GetRole", func(context.Context, *iam.GetRoleInput) (*iam.GetRoleOutput, error) {
				return nil, cloud.Errorf("NoSuchEntity", "no such role")
			}, ReadOnly()),
		}},
		{Name: "resource-groups", Protocol: wire.REST, Version: resourcegroups.Version, Known: resourcegroups.Operations, Routes: resourcegroups.Routes, Actions: []Action{
			Do("GetTags", func(_ context.Context, in *resourcegroups.GetTagsInput) (*resourcegroups.GetTagsOutput, error) {
				return &resourcegroups.GetTagsOutput{Arn: in.Arn}, nil
			}, ReadOnly(), Resource(func(in *resourcegroups.GetTagsInput) []string { return []string{in.Arn} })),
			Do("ListGroups", func(_ context.Context, in *resourcegroups.ListGroupsInput) (*resourcegroups.ListGroupsOutput, error) {
				return &resourcegroups.ListGroupsOutput{NextToken: fmt.Sprint(*in.MaxResults)}, nil
			}, ReadOnly()),
			Do("GetGroup", func(context.Context, *resourcegroups.GetGroupInput) (*resourcegroups.GetGroupOutput, error) {
				return nil, cloud.Errorf("NotFoundException", "no such group")
			}, ReadOnly()),
		}},
		{Name: "sts", Protocol: wire.Query, Version: sts.Version, Namespace: sts.Namespace, Known: sts.Operations, Actions: []Action{
			Do("GetCallerIdentity", func(ctx context.Context, _ *sts.GetCallerIdentityInput) (*sts.GetCallerIdentityOutput, error) {
				id := CallerFrom(ctx)
				return &sts.GetCallerIdentityOutput{Account: id.Account, Arn: id.ARN, UserId: id.UserID}, nil
			}, ReadOnly()),
			Do("AssumeRoleWithWebIdentity", func(ctx context.Context, _ *sts.AssumeRoleWithWebIdentityInput) (*sts.AssumeRoleWithWebIdentityOutput, error) {
				return &sts.AssumeRoleWithWebIdentityOutput{Provider: "caller:" + CallerFrom(ctx).ARN}, nil
			}, Unsigned()),
		}},
	}
}

// An ask is one signed request and the answer expected: a status and a part of the body.
type ask struct {
	name    string
	service string
	region  string
	key     string
	secret  string
	token   string
	target  string
	method  string
	query   string
	body    string
	path    string
	plain   bool // unsigned
	tamper  func(*http.Request)
	age     time.Duration
	status  int
	want    string
}

// TestTheStoreSpeaksInTheProtocolsWords: what the store refuses is no defect of ours, and says what to do.
func TestTheStoreSpeaksInTheProtocolsWords(t *testing.T) {
	for _, c := range []struct {
		err      error
		ec2, ssm string
		status   int
	}{
		{store.ErrTooLarge, "InvalidParameterCombination", "ValidationException", 400},
		{store.ErrUnavailable, "Unavailable", "Unavailable", 503},
		{store.ErrFull, "Unavailable", "Unavailable", 503},
	} {
		for p, code := range map[wire.Protocol]string{wire.EC2: c.ec2, wire.JSON: c.ssm} {
			f, ok := translate(p, fmt.Errorf("commit: %w", c.err))
			if !ok || f.code != code || f.status != c.status {
				t.Errorf("%v: got %+v, %t, want %s and %d", c.err, f, ok, code, c.status)
			}
		}
	}
}

func (a ask) do(t *testing.T, url string) (int, string) {
	t.Helper()
	or := func(s, d string) string {
		if s == "" {
			return d
		}
		return s
	}
	url += or(a.path, "/")
	if a.query != "" {
		url += "?" + a.query
	}
	r, err := http.NewRequest(or(a.method, "POST"), url, strings.NewReader(a.body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	if a.target != "" {
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		r.Header.Set("X-Amz-Target", a.target)
	}
	if !a.plain {
		s := sigv4.Signer{AccessKeyID: or(a.key, testKey), Secret: or(a.secret, testSecret), SessionToken: a.token, Region: or(a.region, "ichiro-1"), Service: or(a.service, "ec2")}
		s.Sign(sigv4.Request{Method: r.Method, Path: r.URL.EscapedPath(), RawQuery: r.URL.RawQuery, Host: r.URL.Host, Header: r.Header, Body: []byte(a.body)}, time.Now().Add(-a.age))
	}
	if a.tamper != nil {
		a.tamper(r)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed && len(res.Header.Get("x-amzn-RequestId")) != 36 {
		t.Errorf("the answer has no request id: %v", res.Header)
	}
	return res.StatusCode, string(body)
}

func TestWhatIsPublicIsReadWithoutCredentials(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "for all") })
	url := serve(t, Config{Region: "ichiro-1", Services: small(new(int)), Authority: anyone{}, Public: map[string]http.Handler{"/.well-known/x": page}})
	for _, c := range []struct {
		method, path string
		status       int
		want         string
	}{
		{"GET", "/.well-known/x", 200, "for all"},
		{"HEAD", "/.well-known/x", 200, ""},
		{"POST", "/.well-known/x", 405, "only to be read"},
		{"GET", "/.well-known/x/", 404, "The API is at /"},
		{"GET", "/.well-known/", 404, "The API is at /"},
		{"GET", "//.well-known/x", 404, "The API is at /"},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(body), c.want) {
			t.Errorf("%s %s: got %d %q, %v; want %d %q", c.method, c.path, resp.StatusCode, body, err, c.status, c.want)
		}
	}
}

func TestTheGates(t *testing.T) {
	committed := 0
	url := serve(t, Config{Region: "ichiro-1", Services: small(&committed), Authority: anyone{denied: "arn:aws:ec2:ichiro-1:000000000000:instance/i-secret"}})
	const start = "Action=StartInstances&Version=2016-11-15&InstanceId.1="
	for _, a := range []ask{
		{name: "a good request is answered", body: "Action=DescribeRegions&Version=2016-11-15", status: 200, want: "<regionName>AIDAU</regionName>"},
		{name: "so is one in the query string", method: "GET", query: "Action=DescribeRegions&Version=2016-11-15", status: 200, want: "<regionInfo>"},
		{name: "JSON is answered", service: "ssm", target: "AmazonSSM.ListCommands", body: "{}", status: 200, want: `{"Commands":[]}`},
		{name: "an empty answer says done", body: start + "i-1", status: 200, want: "<instancesSet/>"},
		{name: "STS answers whatever region is signed", service: "sts", region: "us-east-1", body: "Action=GetCallerIdentity&Version=2011-06-15", status: 200, want: "<Arn>arn:aws:iam::000000000000:user/u</Arn>"},
		{name: "an action without a signature is answered if it may", plain: true, body: "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=a&RoleSessionName=s&WebIdentityToken=t", status: 200, want: "<Provider>caller:</Provider>"},

		{name: "an unknown action is the client's fault", body: "Action=MakeCoffee&Version=2016-11-15", status: 400, want: "<Code>InvalidAction</Code><Message>The action &#34;MakeCoffee&#34; is not valid"},
		{name: "so is one that is not built", body: "Action=RunInstances&Version=2016-11-15", status: 400, want: "<Code>InvalidAction</Code><Message>The action RunInstances is not built yet"},
		{name: "and none", body: "Version=2016-11-15", status: 400, want: "InvalidAction"},
		{name: "and one in JSON", service: "ssm", target: "AmazonSSM.MakeCoffee", body: "{}", status: 400, want: `"__type":"UnknownOperationException"`},
		{name: "an unknown version", body: "Action=DescribeRegions&Version=1999-01-01", status: 400, want: "NoSuchVersion"},
		{name: "an unknown service", service: "s3", body: "Action=ListBuckets", status: 400, want: "InvalidAction"},
		{name: "a target of another service", service: "ec2", target: "AmazonSSM.ListCommands", body: "{}", status: 400, want: "InvalidAction"},
		{name: "no target where one is needed", service: "ssm", body: "{}", status: 400, want: `"__type":"InvalidAction"`},
		{name: "an unknown parameter", body: start + "i-1&Colour=red", status: 400, want: "<Code>UnknownParameter</Code><Message>The parameter Colour is not recognized"},
		{name: "a missing parameter", body: "Action=StartInstances&Version=2016-11-15", status: 400, want: "<Code>MissingParameter</Code><Message>The request must contain the parameter InstanceId<"},
		{name: "a parameter of the wrong type", body: start + "i-1&DryRun=perhaps", status: 400, want: "InvalidParameterValue"},
		{name: "JSON's missing parameter", service: "ssm", target: "AmazonSSM.CancelCommand", body: "{}", status: 400, want: `"__type":"ValidationException"`},
		{name: "JSON that is none", service: "ssm", target: "AmazonSSM.CancelCommand", body: "{", status: 400, want: `"__type":"SerializationException"`},
		{name: "a parameter that is accepted and ignored", service: "sts", body: "Action=GetCallerIdentity&Version=2011-06-15&Colour=red", status: 400, want: "UnknownParameter"},

		{name: "an error has its code", body: start + "i-0", status: 400, want: "<Response><Errors><Error><Code>InvalidInstanceID.NotFound</Code>"},
		{name: "JSON's error has its code", service: "ssm", target: "AmazonSSM.CancelCommand", body: `{"CommandId":"aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa"}`, status: 400, want: `{"__type":"InvalidCommandId","Message":"no such command"`},
		{name: "IAM's error has its status", service: "iam", body: "Action=GetRole&Version=2010-05-08&RoleName=r", status: 404, want: `<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><Error><Type>Sender</Type><Code>NoSuchEntity</Code>`},
		{name: "a panic is our fault", body: "Action=CreateVpc&Version=2016-11-15", status: 500, want: "<Code>InternalFailure</Code>"},
		{name: "an error without a code is our fault and says nothing of us", body: "Action=DeleteVpc&Version=2016-11-15&VpcId=vpc-1", status: 500, want: "<Code>InternalError</Code><Message>An internal error has occurred"},
		{name: "what takes too long may be tried again", body: "Action=CreateSubnet&Version=2016-11-15&VpcId=vpc-1", status: 503, want: "Unavailable"},

		{name: "a dry run would have succeeded", body: start + "i-1&DryRun=true", status: 412, want: "<Code>DryRunOperation</Code><Message>Request would have succeeded, but DryRun flag is set.<"},
		{name: "a dry run finds the error", body: start + "i-0&DryRun=true", status: 400, want: "InvalidInstanceID.NotFound"},
		{name: "a dry run needs permission", body: start + "i-secret&DryRun=true", status: 403, want: "UnauthorizedOperation"},
		{name: "what is not allowed is refused", body: start + "i-1&InstanceId.2=i-secret", status: 403, want: "<Code>UnauthorizedOperation</Code><Message>User: arn:aws:iam::000000000000:user/u is not authorized to perform: ec2:StartInstances on resource: arn:aws:ec2:ichiro-1:000000000000:instance/i-secret<"},

		{name: "no signature", plain: true, body: start + "i-1", status: 403, want: "<Code>MissingAuthenticationToken</Code>"},
		{name: "no signature in JSON", plain: true, target: "AmazonSSM.ListCommands", body: "{}", status: 400, want: `"__type":"MissingAuthenticationTokenException"`},
		{name: "no signature at all for nothing", plain: true, status: 403, want: "MissingAuthenticationToken"},
		{name: "half a signature", body: start + "i-1", tamper: func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=x") }, status: 400, want: "IncompleteSignature"},
		{name: "an unknown key", key: "AKIAOTHER", body: start + "i-1", status: 401, want: "<Code>AuthFailure</Code>"},
		{name: "an unknown key for STS", service: "sts", key: "AKIAOTHER", body: "Action=GetCallerIdentity&Version=2011-06-15", status: 403, want: "<Code>InvalidClientTokenId</Code>"},
		{name: "an unknown key for SSM", service: "ssm", key: "AKIAOTHER", target: "AmazonSSM.ListCommands", body: "{}", status: 400, want: `"UnrecognizedClientException"`},
		{name: "a wrong secret", secret: "x", body: start + "i-1", status: 401, want: "AuthFailure"},
		{name: "a wrong secret for STS", service: "sts", secret: "x", body: "Action=GetCallerIdentity&Version=2011-06-15", status: 403, want: "SignatureDoesNotMatch"},
		{name: "a wrong secret for SSM", service: "ssm", secret: "x", target: "AmazonSSM.ListCommands", body: "{}", status: 400, want: "InvalidSignatureException"},
		{name: "an expired session", token: "old", body: start + "i-1", status: 400, want: "RequestExpired"},
		{name: "an expired session for STS", service: "sts", token: "old", body: "Action=GetCallerIdentity&Version=2011-06-15", status: 403, want: "ExpiredToken"},
		{name: "an expired session for SSM", service: "ssm", token: "old", target: "AmazonSSM.ListCommands", body: "{}", status: 400, want: `"ExpiredTokenException"`},
		{name: "an expired session for IAM", service: "iam", token: "old", body: "Action=GetRole&Version=2010-05-08&RoleName=r", status: 403, want: "ExpiredToken"},
		{name: "an old request", age: 6 * time.Minute, body: start + "i-1", status: 400, want: "RequestExpired"},
		{name: "another region", region: "eu-west-1", body: start + "i-1", status: 401, want: "Credential should be scoped to the region ichiro-1, not &#34;eu-west-1&#34;"},
		{name: "a changed body", body: start + "i-1", tamper: func(r *http.Request) {
			b := start + "i-2"
			r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(b)), int64(len(b)), nil
		}, status: 401, want: "AuthFailure"},

		{name: "REST: a parameter in the path", service: "resource-groups", method: "GET", path: "/resources/a%2Fb/tags", status: 200, want: `{"Arn":"a/b"}`},
		{name: "REST: and in the query string", service: "resource-groups", path: "/groups-list", query: "maxResults=7", status: 200, want: `"NextToken":"7"`},
		{name: "REST: which is a number", service: "resource-groups", path: "/groups-list", query: "maxResults=x", status: 400, want: `"__type":"BadRequestException"`},
		{name: "REST: given once", service: "resource-groups", path: "/groups-list", query: "maxResults=7&maxResults=8", status: 400, want: "it may be given once"},
		{name: "REST: and known", service: "resource-groups", path: "/groups-list", query: "colour=red", status: 400, want: "colour"},
		{name: "REST: given in the body too", service: "resource-groups", path: "/groups-list", query: "maxResults=7", body: `{"maxResults":8}`, status: 400, want: "it may be given once"},
		{name: "REST: a body beyond the bound", service: "resource-groups", path: "/get-group", body: strings.Repeat(" ", maxBody+1), status: 413, want: `"__type":"RequestEntityTooLarge"`},
		{name: "REST: not in the body", service: "resource-groups", path: "/groups-list", body: `{"MaxResults":7}`, status: 400, want: `"__type":"BadRequestException"`},
		{name: "REST: a body that is no JSON", service: "resource-groups", path: "/get-group", body: "{", status: 400, want: "SerializationException"},
		{name: "REST: an error has its status", service: "resource-groups", path: "/get-group", body: "{}", status: 404, want: `"__type":"NotFoundException"`},
		{name: "REST: what is not built", service: "resource-groups", path: "/group-resources", body: "{}", status: 404, want: "The action GroupResources is not built yet"},
		{name: "REST: another path", service: "resource-groups", path: "/resources/a/b/tags", method: "GET", status: 404, want: "There is no action at"},
		{name: "REST: another method", service: "resource-groups", path: "/get-group", method: "DELETE", status: 404, want: "There is no action at"},
		{name: "REST: no path", service: "resource-groups", body: "{}", status: 404, want: "There is no action at"},
		{name: "REST: an empty parameter", service: "resource-groups", path: "/resources//tags", method: "GET", status: 404, want: "There is no action at"},
		{name: "REST: what is not allowed", service: "resource-groups", path: "/resources/arn:aws:ec2:ichiro-1:000000000000:instance%2Fi-secret/tags", method: "GET", status: 403, want: `"__type":"AccessDeniedException"`},
		{name: "REST: an unknown key", service: "resource-groups", key: "AKIAOTHER", path: "/get-group", body: "{}", status: 403, want: "UnrecognizedClientException"},
		{name: "REST: another region", service: "resource-groups", region: "eu-west-1", path: "/get-group", body: "{}", status: 403, want: "InvalidSignatureException"},
		{name: "a path of REST signed for another", service: "ec2", path: "/get-group", body: "{}", status: 404, want: "The API is at /"},
		{name: "a path of REST that nobody signed", plain: true, path: "/get-group", body: "{}", status: 404, want: "The API is at /"},

		{name: "a body beyond the bound", body: strings.Repeat("a", maxBody+1), status: 413, want: "RequestEntityTooLarge"},
		{name: "another method", method: "PUT", body: start + "i-1", status: 405, want: "GET and POST"},
		{name: "another path", path: "/latest/meta-data", status: 404, want: "The API is at /"},
	} {
		t.Run(a.name, func(t *testing.T) {
			status, body := a.do(t, url)
			if status != a.status || !strings.Contains(body, a.want) {
				t.Errorf("got %d %s, want %d ... %s", status, body, a.status, a.want)
			}
			if strings.Contains(body, "10.0.0.1") {
				t.Error("the answer tells what is ours")
			}
		})
	}
	if committed != 1 {
		t.Errorf("%d starts were committed, want 1", committed)
	}
}

// Amazon's clients understand our refusals as the codes that they are.
func TestTheSDKReadsRefusals(t *testing.T) {
	url := serve(t, Config{Region: "ichiro-1", Services: small(new(int))})
	code := func(err error) string {
		var e smithy.APIError
		if !errors.As(err, &e) {
			return fmt.Sprint(err)
		}
		return e.ErrorCode()
	}
	_, err := sdk("ec2", url).(*sdkec2.Client).StartInstances(t.Context(), &sdkec2.StartInstancesInput{InstanceIds: []string{"i-1"}, DryRun: aws.Bool(true)})
	if got := code(err); got != "DryRunOperation" {
		t.Errorf("got %s, want DryRunOperation", got)
	}
	_, err = sdk("resourcegroups", url).(*sdkresourcegroups.Client).GetGroup(t.Context(), &sdkresourcegroups.GetGroupInput{Group: aws.String("x")})
	if got := code(err); got != "NotFoundException" {
		t.Errorf("got %s, want NotFoundException", got)
	}
	_, err = sdk("ssm", url).(*sdkssm.Client).CancelCommand(t.Context(), &sdkssm.CancelCommandInput{CommandId: aws.String("x")})
	if got := code(err); got != "InvalidCommandId" {
		t.Errorf("got %s, want InvalidCommandId", got)
	}
}

func TestChangingCallsLeaveALine(t *testing.T) {
	var audit bytes.Buffer
	reg := prometheus.NewRegistry()
	url := serve(t, Config{Region: "ichiro-1", Services: small(new(int)), Audit: &audit, Registry: reg})
	for _, body := range []string{
		"Action=DescribeRegions&Version=2016-11-15", // reads
		"Action=StartInstances&Version=2016-11-15&InstanceId.1=i-1",
		"Action=StartInstances&Version=2016-11-15&InstanceId.1=i-0&DryRun=true",
		"Action=MakeCoffee&Version=2016-11-15", // is nothing
	} {
		ask{body: body}.do(t, url)
	}
	var got []string
	for line := range strings.Lines(audit.String()) {
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if len(l.Request) != 36 || l.Time.IsZero() || l.Source != "127.0.0.1" || l.Caller != "arn:aws:iam::000000000000:user/u" {
			t.Errorf("the line lacks something: %s", line)
		}
		got = append(got, fmt.Sprint(l.Service, ":", l.Action, " ", l.Resources, " ", l.Code, " ", l.Detail))
	}
	want := "[ec2:StartInstances [arn:aws:ec2:ichiro-1:000000000000:instance/i-1]  started ec2:StartInstances [arn:aws:ec2:ichiro-1:000000000000:instance/i-0] InvalidInstanceID.NotFound <nil>]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "ichiro_api_requests_total" {
				line := ""
				for _, l := range m.GetLabel() {
					line += l.GetValue() + " "
				}
				got = append(got, fmt.Sprint(line, m.GetCounter().GetValue()))
			}
		}
	}
	want = "[DescribeRegions OK ec2 1 StartInstances InvalidInstanceID.NotFound ec2 1 StartInstances OK ec2 1 unknown InvalidAction ec2 1]"
	if fmt.Sprint(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A URL that Amazon's client presigned is answered, as clusters use them to prove who a node is.
func TestAPresignedURLIsAnswered(t *testing.T) {
	url := serve(t, Config{Region: "ichiro-1", Services: small(new(int))})
	r, err := sdksts.NewPresignClient(sdk("sts", url).(*sdksts.Client)).PresignGetCallerIdentity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url    string
		status int
	}{{r.URL, http.StatusOK}, {strings.Replace(r.URL, "GetCallerIdentity", "GetSessionToken", 1), http.StatusForbidden}} {
		res, err := http.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("got %d, want %d for %s", res.StatusCode, c.status, c.url)
		}
	}
}

func TestADefectIsLoggedOnce(t *testing.T) {
	for _, action := range []string{"CreateVpc", "DeleteVpc&VpcId=vpc-1"} {
		var log bytes.Buffer
		url := serve(t, Config{Services: small(new(int)), Log: slog.New(slog.NewTextHandler(&log, nil))})
		ask{body: "Action=" + action}.do(t, url)
		if got := strings.Count(log.String(), "level=ERROR"); got != 1 {
			t.Errorf("%s: got %d lines, want 1: %s", action, got, log.String())
		}
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	f, err := New(Config{Services: small(new(int)), Authority: anyone{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Serve(ctx, l) }()
	if status, body := (ask{body: "Action=DescribeRegions&Version=2016-11-15"}).do(t, "http://"+l.Addr().String()); status != 200 {
		t.Errorf("got %d %s, want 200", status, body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("got %v, want nil", err)
	}
}

func TestTablesAreChecked(t *testing.T) {
	a := Do("CreateVpc", func(context.Context, *ec2.CreateVpcInput) (*ec2.CreateVpcOutput, error) { return nil, nil })
	b := Do("Nonsense", func(context.Context, *ec2.CreateVpcInput) (*ec2.CreateVpcOutput, error) { return nil, nil })
	for _, services := range [][]Service{
		{{Name: "ec2", Actions: []Action{a, a}}},
		{{Name: "ec2", Known: ec2.Operations, Actions: []Action{b}}},
		{{Name: "ec2"}, {Name: "ec2"}},
	} {
		if _, err := New(Config{Services: services}); err == nil {
			t.Errorf("accepted %v", services)
		}
	}
}

// BenchmarkCall is one signed request through all gates, without a network.
func BenchmarkCall(b *testing.B) {
	f, err := New(Config{Region: "ichiro-1", Services: small(new(int)), Authority: anyone{}, Log: slog.New(slog.DiscardHandler), Audit: io.Discard})
	if err != nil {
		b.Fatal(err)
	}
	body := "Action=StartInstances&Version=2016-11-15&InstanceId.1=i-1"
	for b.Loop() {
		r := httptest.NewRequest("POST", "http://127.0.0.1:8773/", strings.NewReader(body))
		s := sigv4.Signer{AccessKeyID: testKey, Secret: testSecret, Region: "ichiro-1", Service: "ec2"}
		s.Sign(sigv4.Request{Method: "POST", Path: "/", Host: r.Host, Header: r.Header, Body: []byte(body)}, time.Now())
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
}

func TestDataChannelsAreNoObjects(t *testing.T) {
	reached := 0
	f, err := New(Config{
		Services: small(new(int)), Authority: anyone{}, Log: slog.New(slog.DiscardHandler), Objects: "/nowhere/s3.sock",
		Channels: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }),
	})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "http://127.0.0.1:8773"+ChannelPath+"root-1?role=publish_subscribe", nil)
	r.Header.Set("Upgrade", "websocket")
	f.ServeHTTP(httptest.NewRecorder(), r)
	if reached != 1 {
		t.Error("a data channel went to the object store")
	}
}
