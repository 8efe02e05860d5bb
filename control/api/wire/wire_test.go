package wire_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/api/shape/ec2"
	"github.com/ichiro-metal/ichiro/control/api/shape/iam"
	"github.com/ichiro-metal/ichiro/control/api/shape/ssm"
	"github.com/ichiro-metal/ichiro/control/api/wire"
)

func TestFormsThatClientsSend(t *testing.T) {
	in := new(ec2.DescribeInstancesInput)
	must(t, decode(wire.EC2, "Action=DescribeInstances&Version=x&InstanceId.10=i-c&InstanceId.2=i-b&InstanceId.4000000000=i-d&InstanceId.1=i-a"+
		"&Filter.7.Name=tag%3Aa+b&Filter.7.Value.1=x%2By&Filter.7.Value.3=&DryRun=true&MaxResults=5", in))
	want := &ec2.DescribeInstancesInput{
		InstanceIds: []string{"i-a", "i-b", "i-c", "i-d"},
		Filters:     []ec2.Filter{{Name: "tag:a b", Values: []string{"x+y", ""}}},
		DryRun:      new(true), MaxResults: new(int64(5)),
	}
	if !reflect.DeepEqual(in, want) {
		t.Errorf("got %+v, want %+v", in, want)
	}

	role := new(iam.CreateRoleInput)
	must(t, decode(wire.Query, "RoleName=r&AssumeRolePolicyDocument=%7B%7D&Tags=&MaxSessionDuration=3600", role))
	if role.Tags == nil || len(role.Tags) != 0 {
		t.Errorf("an empty list that the client sends is not nil: got %#v", role.Tags)
	}

	del := new(ec2.DeleteTagsInput)
	must(t, decode(wire.EC2, "ResourceId.1=i-1&Tag.1.Key=a&Tag.2.Key=b&Tag.2.Value=", del))
	if del.Tags[0].Value != nil || del.Tags[1].Value == nil {
		t.Error("DeleteTags tells an absent value from an empty one")
	}

	attr := new(ec2.ModifyInstanceAttributeInput)
	must(t, decode(wire.EC2, "InstanceId=i-1&UserData.Value=IyE%3D", attr))
	if string(attr.UserData.Value) != "#!" {
		t.Errorf("got %q, want a decoded blob", attr.UserData.Value)
	}
}

func TestWhatIsRefused(t *testing.T) {
	deep := strings.Repeat("a.", 40) + "b=1"
	many := strings.Repeat("a=&", 30000)
	for _, c := range []struct {
		name, body string
		kind       wire.Kind
		parameter  string
	}{
		{"an unknown parameter", "ImageId=ami-1&MinCount=1&MaxCount=1&Colour=red", wire.UnknownParameter, "Colour"},
		{"an unknown parameter below a list", "MinCount=1&MaxCount=1&BlockDeviceMapping.3.Ebs.Colour=red", wire.UnknownParameter, "BlockDeviceMapping.3.Ebs.Colour"},
		{"a parameter in the wrong case", "MinCount=1&MaxCount=1&imageId=x", wire.UnknownParameter, "imageId"},
		{"a member list, which EC2 has not", "MinCount=1&MaxCount=1&SecurityGroupId.member.1=x", wire.UnknownParameter, "SecurityGroupId.member"},
		{"a list number of zero", "MinCount=1&MaxCount=1&SecurityGroupId.0=x", wire.UnknownParameter, "SecurityGroupId.0"},
		{"a list number with a sign", "MinCount=1&MaxCount=1&SecurityGroupId.%2B1=x", wire.UnknownParameter, "SecurityGroupId.+1"},
		{"a list number beyond 32 bits", "MinCount=1&MaxCount=1&SecurityGroupId.99999999999=x", wire.UnknownParameter, "SecurityGroupId.99999999999"},
		{"a value for a list", "MinCount=1&MaxCount=1&SecurityGroupId=x", wire.InvalidValue, "SecurityGroupId"},
		{"a value for a structure", "MinCount=1&MaxCount=1&Placement=x", wire.InvalidValue, "Placement"},
		{"parts of a scalar", "MinCount=1&MaxCount=1&ImageId.1=x", wire.UnknownParameter, "ImageId.1"},
		{"a word for a number", "MinCount=one&MaxCount=1", wire.InvalidValue, "MinCount"},
		{"a number for a boolean", "MinCount=1&MaxCount=1&EbsOptimized=7", wire.InvalidValue, "EbsOptimized"},
		{"a missing parameter", "MinCount=1", wire.MissingParameter, "MaxCount"},
		{"a parameter given twice", "MinCount=1&MinCount=2&MaxCount=1", wire.Malformed, ""},
		{"a broken escape", "MinCount=%zz", wire.Malformed, ""},
		{"a name of forty parts", deep, wire.Malformed, ""},
		{"thirty thousand parameters", many, wire.Malformed, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := decode(wire.EC2, c.body, new(ec2.RunInstancesInput))
			var got *wire.Error
			if !errors.As(err, &got) || got.Kind != c.kind || got.Parameter != c.parameter {
				t.Errorf("got %#v, want kind %d of %q", err, c.kind, c.parameter)
			}
		})
	}
}

func TestJSONThatIsRefused(t *testing.T) {
	for body, kind := range map[string]wire.Kind{
		`{"DocumentName":"d","Colour":1}`:              wire.UnknownParameter,
		`{"DocumentName":"d","Targets":[{"Kay":"x"}]}`: wire.UnknownParameter,
		`{"documentName":"d"}`:                         wire.UnknownParameter,
		`{}`:                                           wire.MissingParameter,
		``:                                             wire.MissingParameter,
		`{"DocumentName":null}`:                        wire.MissingParameter,
		`{"DocumentName":7}`:                           wire.InvalidValue,
		`{"DocumentName":"d","TimeoutSeconds":"7"}`:   wire.InvalidValue,
		`{"DocumentName":"d","TimeoutSeconds":7.5}`:   wire.InvalidValue,
		`{"DocumentName":"d","InstanceIds":[null]}`:   wire.InvalidValue,
		`{"DocumentName":"d","Parameters":{"a":"b"}}`: wire.InvalidValue,
		`[]`:                          wire.Malformed,
		`{"DocumentName":"d"} {}`:     wire.Malformed,
		`{"DocumentName":`:            wire.Malformed,
		"{\"DocumentName\":\"\xff\"}": wire.Malformed,
		strings.Repeat("[", 100000):   wire.Malformed,
		`{"a":` + strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat("}", 101): wire.UnknownParameter,
	} {
		var got *wire.Error
		if err := wire.DecodeJSON([]byte(body), new(ssm.SendCommandInput), nil); !errors.As(err, &got) || got.Kind != kind {
			t.Errorf("%.60s: got %v, want kind %d", body, err, kind)
		}
	}
}

// A list's number is a sort key: two elements with enormous numbers cost what two elements cost.
func TestListNumbersAllocateNothing(t *testing.T) {
	body := "InstanceId.4294967295=b&InstanceId.4294967294=a"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	in := new(ec2.DescribeInstancesInput)
	must(t, decode(wire.EC2, body, in))
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
		t.Errorf("two identifiers took %d bytes", got)
	}
	if fmt.Sprint(in.InstanceIds) != "[a b]" {
		t.Errorf("got %v, want [a b]", in.InstanceIds)
	}
}

func TestAnswers(t *testing.T) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 1234567, time.UTC)
	for _, c := range []struct {
		name  string
		reply wire.Reply
		out   any
		want  string
	}{
		{"EC2: scalars, empty lists, escapes", wire.Reply{Protocol: wire.EC2, Action: "DescribeInstances", Namespace: "n/", RequestID: "id"},
			&ec2.DescribeInstancesOutput{Reservations: []ec2.Reservation{{ReservationId: "r-1", Instances: []ec2.Instance{{
				InstanceId: "i-<1>", LaunchTime: &at, EbsOptimized: new(false), AmiLaunchIndex: new(int64(0)), ProductCodes: []ec2.ProductCode{},
				Tags: []ec2.Tag{{Key: "a&b\x00\r\n"}},
			}}}}},
			`<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="n/"><requestId>id</requestId><reservationSet><item><instancesSet><item><amiLaunchIndex>0</amiLaunchIndex><ebsOptimized>false</ebsOptimized><instanceId>i-&lt;1&gt;</instanceId><launchTime>2026-11-23T10:00:00.001Z</launchTime><privateDnsName/><productCodes/><dnsName/><reason/><tagSet><item><key>a&amp;b` + "\ufffd&#xD;\n" + `</key><value/></item></tagSet></item></instancesSet><reservationId>r-1</reservationId></item></reservationSet></DescribeInstancesResponse>`},
		{"EC2: nothing found", wire.Reply{Protocol: wire.EC2, Action: "DescribeInstances", Namespace: "n/", RequestID: "id"}, new(ec2.DescribeInstancesOutput),
			`<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="n/"><requestId>id</requestId><reservationSet/></DescribeInstancesResponse>`},
		{"EC2: done", wire.Reply{Protocol: wire.EC2, Action: "CreateTags", Namespace: "n/", RequestID: "id"}, new(ec2.CreateTagsOutput),
			`<?xml version="1.0" encoding="UTF-8"?>
<CreateTagsResponse xmlns="n/"><requestId>id</requestId><return>true</return></CreateTagsResponse>`},
		{"EC2: a list of plain values", wire.Reply{Protocol: wire.EC2, Action: "A", Namespace: "n/", RequestID: "id"}, &ec2.IpPermission{IpRanges: []ec2.IpRange{}, IpProtocol: "-1"},
			`<?xml version="1.0" encoding="UTF-8"?>
<AResponse xmlns="n/"><requestId>id</requestId><ipProtocol>-1</ipProtocol><ipRanges/><ipv6Ranges/><prefixListIds/><groups/></AResponse>`},
		{"Query", wire.Reply{Protocol: wire.Query, Action: "ListRoles", Namespace: "n/", RequestID: "id"}, &iam.ListRolesOutput{IsTruncated: new(false), Roles: []iam.Role{{RoleName: "r"}}},
			`<?xml version="1.0" encoding="UTF-8"?>
<ListRolesResponse xmlns="n/"><ListRolesResult><IsTruncated>false</IsTruncated><Roles><member><RoleName>r</RoleName></member></Roles></ListRolesResult><ResponseMetadata><RequestId>id</RequestId></ResponseMetadata></ListRolesResponse>`},
		{"JSON", wire.Reply{Protocol: wire.JSON}, &ssm.ListCommandsOutput{Commands: []ssm.Command{{CommandId: "c", RequestedDateTime: &at, Parameters: map[string][]string{"b": {"\"\n"}, "a": {}}}}},
			`{"Commands":[{"CommandId":"c","Comment":"","OutputS3BucketName":"","OutputS3KeyPrefix":"","Parameters":{"a":[],"b":["\"\n"]},"RequestedDateTime":1795428000.001}]}`},
		{"JSON: nothing found", wire.Reply{Protocol: wire.JSON}, new(ssm.ListCommandsOutput), `{"Commands":[]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(c.reply.Append(nil, c.out)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for p, want := range map[wire.Protocol]string{
		wire.EC2:   "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>C</Code><Message>m &lt;</Message></Error></Errors><RequestID>id</RequestID></Response>",
		wire.Query: "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ErrorResponse xmlns=\"n/\"><Error><Type>Sender</Type><Code>C</Code><Message>m &lt;</Message></Error><RequestId>id</RequestId></ErrorResponse>",
		wire.JSON:  `{"__type":"C","Message":"m <","message":"m <"}`,
	} {
		if got := string(wire.Reply{Protocol: p, Namespace: "n/", RequestID: "id"}.AppendError(nil, "C", "m <", false)); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzForm(f *testing.F) {
	f.Add("MinCount=1&MaxCount=2&BlockDeviceMapping.1.Ebs.VolumeSize=5&TagSpecification.2.Tag.1.Key=a&UserData=eA==")
	f.Add("a.b.c=1&a.b=2&a.1.=&=&&%41=%42&SecurityGroupId.4294967295=")
	f.Add("Tags.member.1.Key=a&Tags.entry.1.key=b&InstanceMarketOptions.SpotOptions.ValidUntil=2000-01-01T00:00:00Z")
	f.Fuzz(func(t *testing.T, body string) {
		for _, in := range []any{new(ec2.RunInstancesInput), new(ec2.RegisterImageInput), new(ec2.ModifyInstanceAttributeInput)} {
			if err := decode(wire.EC2, body, in); err == nil {
				encodes(t, wire.EC2, in)
			}
		}
		in := new(iam.CreateRoleInput)
		if err := decode(wire.Query, body, in); err == nil {
			encodes(t, wire.Query, in)
		}
	})
}

// encodes checks that whatever was decoded can be written as well-formed XML.
func encodes(t *testing.T, p wire.Protocol, v any) {
	dec := xml.NewDecoder(strings.NewReader(string(wire.Reply{Protocol: p, Action: "A"}.Append(nil, v))))
	for {
		if _, err := dec.Token(); err == io.EOF {
			return
		} else if err != nil {
			t.Fatalf("%+v: %v", v, err)
		}
	}
}

func FuzzJSON(f *testing.F) {
	f.Add(`{"DocumentName":"d","Parameters":{"commands":["a"]},"Targets":[{"Key":"k","Values":["v"]}],"TimeoutSeconds":60}`)
	f.Add(`{"DocumentName":"\ud800","NotificationConfig":{"NotificationEvents":[]}}`)
	f.Fuzz(func(t *testing.T, body string) {
		in := new(ssm.SendCommandInput)
		if err := wire.DecodeJSON([]byte(body), in, nil); err != nil {
			return
		}
		again := new(ssm.SendCommandInput)
		if err := wire.DecodeJSON(wire.AppendJSON(nil, in), again, nil); err != nil && in.DocumentName != "" {
			t.Fatalf("%s: %v", body, err)
		}
	})
}

// BenchmarkDescribe1000 writes 1,000 instances of some 60 fields each.
func BenchmarkDescribe1000(b *testing.B) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	out := new(ec2.DescribeInstancesOutput)
	for i := range 1000 {
		id := fmt.Sprintf("i-%017x", i)
		eni := ec2.InstanceNetworkInterface{
			NetworkInterfaceId: "eni-0123456789abcdef0", SubnetId: "subnet-0", VpcId: "vpc-0", MacAddress: "06:00:00:00:00:01", PrivateIpAddress: "172.31.0.4",
			PrivateDnsName: "ip-172-31-0-4", Status: "in-use", OwnerId: "000000000000", SourceDestCheck: new(true), InterfaceType: "interface",
			Groups:             []ec2.GroupIdentifier{{GroupId: "sg-0", GroupName: "default"}},
			PrivateIpAddresses: []ec2.InstancePrivateIpAddress{{Primary: new(true), PrivateIpAddress: "172.31.0.4"}},
			Attachment:         &ec2.InstanceNetworkInterfaceAttachment{AttachmentId: "eni-attach-0", AttachTime: &at, DeleteOnTermination: new(true), DeviceIndex: new(int64(0)), Status: "attached"},
		}
		out.Reservations = append(out.Reservations, ec2.Reservation{ReservationId: "r-0", OwnerId: "000000000000", Instances: []ec2.Instance{{
			InstanceId: id, ImageId: "ami-0", InstanceType: "t3.micro", KernelId: "aki-0", RamdiskId: "ari-0", KeyName: "k", LaunchTime: &at, AmiLaunchIndex: new(int64(0)),
			State: &ec2.InstanceState{Code: new(int64(16)), Name: "running"}, Monitoring: &ec2.Monitoring{State: "disabled"},
			Placement: &ec2.Placement{AvailabilityZone: "ichiro-1a", Tenancy: "default"}, PrivateIpAddress: "172.31.0.4", PrivateDnsName: "ip-172-31-0-4",
			SubnetId: "subnet-0", VpcId: "vpc-0", Architecture: "x86_64", ClientToken: "t", EbsOptimized: new(false), EnaSupport: new(true), Hypervisor: "kvm",
			IamInstanceProfile: &ec2.IamInstanceProfile{Arn: "arn:aws:iam::000000000000:instance-profile/p", Id: "AIPA"}, NetworkInterfaces: []ec2.InstanceNetworkInterface{eni},
			RootDeviceName: "/dev/vda", RootDeviceType: "ebs", SecurityGroups: eni.Groups, SourceDestCheck: new(true), Tags: []ec2.Tag{{Key: "Name", Value: id}, {Key: "a", Value: "b"}},
			VirtualizationType: "hvm", CpuOptions: &ec2.CpuOptions{CoreCount: new(int64(1)), ThreadsPerCore: new(int64(2))},
			MetadataOptions:     &ec2.InstanceMetadataOptionsResponse{HttpEndpoint: "enabled", HttpTokens: "optional", HttpPutResponseHopLimit: new(int64(1)), State: "applied"},
			BlockDeviceMappings: []ec2.InstanceBlockDeviceMapping{{DeviceName: "/dev/vda", Ebs: &ec2.EbsInstanceBlockDevice{VolumeId: "vol-0", Status: "attached", AttachTime: &at, DeleteOnTermination: new(true)}}},
		}}})
	}
	reply := wire.Reply{Protocol: wire.EC2, Action: "DescribeInstances", Namespace: ec2.Namespace, RequestID: "id"}
	var size int
	for b.Loop() {
		size = len(reply.Append(nil, out))
	}
	b.ReportMetric(float64(size), "bytes")
}

func BenchmarkDecodeRunInstances(b *testing.B) {
	body := "BlockDeviceMapping.1.DeviceName=%2Fdev%2Fsdh&BlockDeviceMapping.1.Ebs.VolumeSize=5&ImageId=ami-1&InstanceType=t2.micro&UserData=" +
		strings.Repeat("QUJD", 1000) + "&TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=a&TagSpecification.1.Tag.1.Value=b&MinCount=2&MaxCount=2&ClientToken=x"
	for b.Loop() {
		if err := decode(wire.EC2, body, new(ec2.RunInstancesInput)); err != nil {
			b.Fatal(err)
		}
	}
}
