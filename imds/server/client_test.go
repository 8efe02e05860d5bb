package server

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	awsimds "github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	"github.com/ichiro-metal/ichiro/internal/bundle"
	"github.com/ichiro-metal/ichiro/internal/cloud"
)

func TestTheAWSClientIsContent(t *testing.T) {
	w := newWorld(t)
	w.publish(func(m *bundle.Metadata) { m.Options.HTTPTokens = "required" })
	client := awsimds.New(awsimds.Options{Endpoint: "http://" + w.addr})
	ctx := t.Context()
	id, err := client.GetInstanceIdentityDocument(ctx, nil)
	if err != nil || id.InstanceID != string(testID) {
		t.Errorf("identity document: %+v, %v", id, err)
	}
	region, err := client.GetRegion(ctx, nil)
	if err != nil || region.Region != "ichiro-1" {
		t.Errorf("region: %+v, %v", region, err)
	}
	for path, want := range map[string]string{"instance-id": string(testID), "hostname": "ip-10-0-0-5"} {
		got, err := client.GetMetadata(ctx, &awsimds.GetMetadataInput{Path: path})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if body, _ := io.ReadAll(got.Content); string(body) != want {
			t.Errorf("%s = %q, want %q", path, body, want)
		}
	}
	if got, err := client.GetMetadata(ctx, &awsimds.GetMetadataInput{}); err != nil {
		t.Errorf("top: %v", err)
	} else if body, _ := io.ReadAll(got.Content); !strings.Contains(string(body), "instance-id\n") {
		t.Errorf("top is %q", body)
	}
	got, err := client.GetUserData(ctx, nil)
	if err != nil {
		t.Fatalf("user data: %v", err)
	}
	if body, _ := io.ReadAll(got.Content); string(body) != "#!/bin/sh\n\x00\xff\r\n" {
		t.Errorf("user data is %q", body)
	}
}

func TestTheAWSClientFindsItsRole(t *testing.T) {
	w := newWorld(t)
	w.publish(func(m *bundle.Metadata) {
		m.Options.HTTPTokens = "required"
		m.Profile = &cloud.ProfileRef{ARN: "arn:aws:iam::123456789012:instance-profile/demo", ID: "AIPA", RoleName: "demo"}
	})
	c := bundle.Credentials{Role: "demo", Profile: "AIPA", Code: "Success", LastUpdated: time.Now(), AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "secret",
		Token: "token", Expiration: time.Now().Add(6 * time.Hour)}
	if err := bundle.Write(w.root.Instance(testID).Path("credentials.json"), c, 0o600); err != nil {
		t.Fatal(err)
	}
	provider := ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = awsimds.New(awsimds.Options{Endpoint: "http://" + w.addr}) })
	got, err := provider.Retrieve(t.Context())
	if err != nil || got.AccessKeyID != c.AccessKeyID || got.SecretAccessKey != c.SecretAccessKey || got.SessionToken != c.Token || !got.CanExpire {
		t.Errorf("got %+v, %v", got, err)
	}
}

// The AWS CLI, whichever is installed, signs with what it finds here.
func TestTheAWSCLISignsAsItsRole(t *testing.T) {
	path, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("no AWS CLI: apt install awscli")
	}
	w := newWorld(t)
	w.publish(func(m *bundle.Metadata) {
		m.Options.HTTPTokens = "required"
		m.Profile = &cloud.ProfileRef{ARN: "arn:aws:iam::123456789012:instance-profile/demo", ID: "AIPA", RoleName: "demo"}
	})
	c := bundle.Credentials{Role: "demo", Profile: "AIPA", Code: "Success", LastUpdated: time.Now(), AccessKeyID: "ASIAEXAMPLE", SecretAccessKey: "secret",
		Token: "to+ken/==", Expiration: time.Now().Add(6 * time.Hour)}
	if err := bundle.Write(w.root.Instance(testID).Path("credentials.json"), c, 0o600); err != nil {
		t.Fatal(err)
	}
	var asked http.Header
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Header
		io.WriteString(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:of:it</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`)
	}))
	defer api.Close()
	cmd := exec.CommandContext(t.Context(), path, "--endpoint-url", api.URL, "sts", "get-caller-identity", "--query", "Arn", "--output", "text")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_EC2_METADATA_SERVICE_ENDPOINT=http://" + w.addr + "/", "AWS_DEFAULT_REGION=ichiro-1",
		"AWS_EC2_METADATA_V1_DISABLED=true", "AWS_METADATA_SERVICE_TIMEOUT=10", "AWS_METADATA_SERVICE_NUM_ATTEMPTS=3", "no_proxy=*", "AWS_PAGER="}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || strings.TrimSpace(string(out)) != "arn:of:it" {
		t.Fatalf("aws says %q, %v\n%s", out, err, &stderr)
	}
	if got := asked.Get("Authorization"); !strings.Contains(got, "Credential=ASIAEXAMPLE/") || asked.Get("X-Amz-Security-Token") != c.Token {
		t.Errorf("it signs %q with token %q", got, asked.Get("X-Amz-Security-Token"))
	}
}

// cloudInit reads everything with cloud-init's own code, the way its EC2 data source does.
const cloudInit = `
import json, sys
from cloudinit.sources.helpers import ec2
url = sys.argv[1]
print(json.dumps({
    "metadata": ec2.get_instance_metadata("2021-03-23", url, timeout=5, retries=0),
    "identity": ec2.get_instance_identity("2021-03-23", url, timeout=5, retries=0),
    "userdata": ec2.get_instance_userdata("2021-03-23", url, timeout=5, retries=0).decode("latin-1"),
}))`

// python returns Debian's own interpreter with its cloud-init, where deploy/scripts/needs has unpacked it.
func python(args ...string) *exec.Cmd {
	cmd := exec.Command("/usr/bin/python3", args...)
	cmd.Env = append(os.Environ(), "no_proxy=*", "PYTHONPATH=/usr/local/lib/ichiro/cloud-init/usr/lib/python3/dist-packages")
	return cmd
}

func TestCloudInitReadsTheTree(t *testing.T) {
	if out, err := python("-c", "import cloudinit.sources.helpers.ec2").CombinedOutput(); err != nil {
		t.Fatalf("no cloud-init to read with; deploy/scripts/needs test unpacks it: %v\n%s", err, out)
	}
	w := newWorld(t)
	w.publish(func(m *bundle.Metadata) {
		m.PublicKey, m.KeyName = "ssh-ed25519 AAAA", "my-key"
		m.BlockDevices = map[string]string{"ami": "/dev/sda1", "root": "/dev/sda1"}
		m.Placement = bundle.MetadataPlacement{Region: "ichiro-1", Zone: "ichiro-1a"}
	})
	cmd := python("-c", cloudInit, "http://"+w.addr)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cloud-init: %v\n%s", err, &stderr)
	}
	var got struct {
		Metadata struct {
			ID      string            `json:"instance-id"`
			Host    string            `json:"local-hostname"`
			Devices map[string]string `json:"block-device-mapping"`
			Public  map[string]any    `json:"public-keys"`
			Place   map[string]string `json:"placement"`
			Network struct {
				Interfaces struct {
					MACs map[string]map[string]any
				}
			}
		}
		Identity struct {
			ID map[string]any `json:"document"`
		}
		UserData string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	m := got.Metadata
	if m.ID != string(testID) || m.Host != "ip-10-0-0-5" || m.Devices["ami"] != "/dev/sda1" || m.Place["availability-zone"] != "ichiro-1a" ||
		m.Network.Interfaces.MACs["02:00:00:00:00:01"]["device-number"] != "0" {
		t.Errorf("metadata is %s", out)
	}
	if key, _ := json.Marshal(m.Public); string(key) != `{"my-key":["ssh-ed25519 AAAA"]}` {
		t.Errorf("keys are %s", key)
	}
	if got.Identity.ID["instanceId"] != string(testID) {
		t.Errorf("identity is %v", got.Identity.ID)
	}
	if got.UserData != "#!/bin/sh\n\x00ÿ\r\n" {
		t.Errorf("user data is %q", got.UserData)
	}
}
