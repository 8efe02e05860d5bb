package ec2

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ichiro-metal/ichiro/control/api"
	"github.com/ichiro-metal/ichiro/control/sigv4"
)

// but allows everything but one resource.
type but struct{ denied string }

func (b but) Authenticate(_ context.Context, c api.Credential) (api.Identity, []byte, error) {
	return api.Identity{Account: "000000000000", ARN: "arn:aws:iam::000000000000:user/u"}, sigv4.Key("s", c.Date, c.Region, c.Service), nil
}

func (b but) Authorize(_ context.Context, _ api.Identity, _, resource string) error {
	if resource == b.denied {
		return api.ErrDenied
	}
	return nil
}

// A policy that denies one resource must be asked about it, or it denies nothing. No store is needed: what is refused
// never reaches an action.
func TestADeniedResourceIsRefused(t *testing.T) {
	const arn, image = "arn:aws:ec2:r-1:000000000000:", "arn:aws:ec2:r-1::image/"
	for _, c := range []struct{ form, denied string }{
		{"Action=StartInstances&InstanceId.1=i-1&InstanceId.2=i-2", arn + "instance/i-2"},
		{"Action=StopInstances&InstanceId.1=i-1", arn + "instance/i-1"},
		{"Action=RebootInstances&InstanceId.1=i-1", arn + "instance/i-1"},
		{"Action=TerminateInstances&InstanceId.1=i-1", arn + "instance/i-1"},
		{"Action=ModifyInstanceAttribute&InstanceId=i-1&InstanceType.Value=t3.nano", arn + "instance/i-1"},
		{"Action=DescribeInstanceAttribute&InstanceId=i-1&Attribute=userData", arn + "instance/i-1"},
		{"Action=GetConsoleOutput&InstanceId=i-1", arn + "instance/i-1"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1", arn + "instance/*"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1", image + "ami-1"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1&KernelId=aki-1", image + "aki-1"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1&KeyName=k", arn + "key-pair/k"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1", arn + "subnet/*"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1&SubnetId=subnet-1", arn + "subnet/subnet-1"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1&SecurityGroupId.1=sg-1&SecurityGroupId.2=sg-2", arn + "security-group/sg-2"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.SubnetId=subnet-2", arn + "subnet/subnet-2"},
		{"Action=CreateSecurityGroup&GroupName=g&GroupDescription=d", arn + "security-group/*"},
		{"Action=CreateSecurityGroup&GroupName=g&GroupDescription=d", arn + "vpc/*"},
		{"Action=CreateSecurityGroup&GroupName=g&GroupDescription=d&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=DeleteSecurityGroup&GroupId=sg-1", arn + "security-group/sg-1"},
		{"Action=AuthorizeSecurityGroupIngress&GroupId=sg-1&IpProtocol=-1&CidrIp=10.0.0.0/8", arn + "security-group/sg-1"},
		{"Action=AuthorizeSecurityGroupEgress&GroupId=sg-1", arn + "security-group/sg-1"},
		{"Action=RevokeSecurityGroupIngress&GroupId=sg-1&SecurityGroupRuleId.1=sgr-1", arn + "security-group-rule/sgr-1"},
		{"Action=RevokeSecurityGroupEgress&GroupId=sg-1", arn + "security-group/sg-1"},
		{"Action=ModifySecurityGroupRules&GroupId=sg-1&SecurityGroupRule.1.SecurityGroupRuleId=sgr-1", arn + "security-group-rule/sgr-1"},
		{"Action=UpdateSecurityGroupRuleDescriptionsIngress&GroupId=sg-1", arn + "security-group/sg-1"},
		{"Action=UpdateSecurityGroupRuleDescriptionsEgress&GroupId=sg-1&SecurityGroupRuleDescription.1.SecurityGroupRuleId=sgr-1", arn + "security-group-rule/sgr-1"},
		{"Action=CreateTags&ResourceId.1=sgr-1&Tag.1.Key=k", arn + "security-group-rule/sgr-1"},
		{"Action=CreateNetworkAcl&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=DeleteNetworkAcl&NetworkAclId=acl-1", arn + "network-acl/acl-1"},
		{"Action=DeleteNetworkAclEntry&NetworkAclId=acl-1&RuleNumber=1&Egress=true", arn + "network-acl/acl-1"},
		{"Action=CreateNetworkAclEntry&NetworkAclId=acl-1&RuleNumber=1&Egress=true&Protocol=-1&RuleAction=allow&CidrBlock=0.0.0.0/0", arn + "network-acl/acl-1"},
		{"Action=ReplaceNetworkAclEntry&NetworkAclId=acl-1&RuleNumber=1&Egress=true&Protocol=-1&RuleAction=allow&CidrBlock=0.0.0.0/0", arn + "network-acl/acl-1"},
		{"Action=CreateDhcpOptions&DhcpConfiguration.1.Key=domain-name&DhcpConfiguration.1.Value.1=a", arn + "dhcp-options/*"},
		{"Action=DeleteDhcpOptions&DhcpOptionsId=dopt-1", arn + "dhcp-options/dopt-1"},
		{"Action=AssociateDhcpOptions&DhcpOptionsId=dopt-1&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1&NetworkInterface.1.DeviceIndex=0&NetworkInterface.2.DeviceIndex=1&NetworkInterface.2.SubnetId=subnet-2", arn + "subnet/subnet-2"},
		{"Action=RunInstances&ImageId=ami-1&MinCount=1&MaxCount=1&NetworkInterface.1.DeviceIndex=0&NetworkInterface.1.NetworkInterfaceId=eni-1", arn + "network-interface/eni-1"},
		{"Action=CreateNetworkInterface&SubnetId=subnet-1&SecurityGroupId.1=sg-1", arn + "subnet/subnet-1"},
		{"Action=CreateNetworkInterface&SubnetId=subnet-1&SecurityGroupId.1=sg-1", arn + "security-group/sg-1"},
		{"Action=DeleteNetworkInterface&NetworkInterfaceId=eni-1", arn + "network-interface/eni-1"},
		{"Action=AttachNetworkInterface&NetworkInterfaceId=eni-1&InstanceId=i-1&DeviceIndex=1", arn + "network-interface/eni-1"},
		{"Action=AttachNetworkInterface&NetworkInterfaceId=eni-1&InstanceId=i-1&DeviceIndex=1", arn + "instance/i-1"},
		{"Action=ModifyNetworkInterfaceAttribute&NetworkInterfaceId=eni-1&SecurityGroupId.1=sg-2", arn + "security-group/sg-2"},
		{"Action=ResetNetworkInterfaceAttribute&NetworkInterfaceId=eni-1&SourceDestCheck=x", arn + "network-interface/eni-1"},
		{"Action=AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&SecondaryPrivateIpAddressCount=1", arn + "network-interface/eni-1"},
		{"Action=UnassignPrivateIpAddresses&NetworkInterfaceId=eni-1&PrivateIpAddress.1=10.0.0.9", arn + "network-interface/eni-1"},
		{"Action=AssignIpv6Addresses&NetworkInterfaceId=eni-1&Ipv6AddressCount=1", arn + "network-interface/eni-1"},
		{"Action=UnassignIpv6Addresses&NetworkInterfaceId=eni-1&Ipv6Addresses.1=2001:db8::9", arn + "network-interface/eni-1"},
		{"Action=AllocateAddress", arn + "elastic-ip/*"},
		{"Action=RegisterImage&Name=n", image + "*"},
		{"Action=DeregisterImage&ImageId=ami-1", image + "ami-1"},
		{"Action=CreateKeyPair&KeyName=a:b/c", arn + "key-pair/a:b/c"},
		{"Action=DeleteKeyPair&KeyName=k", arn + "key-pair/k"},
		{"Action=CreateTags&ResourceId.1=i-1&ResourceId.2=vpc-1&Tag.1.Key=k", arn + "vpc/vpc-1"},
		{"Action=CreateTags&ResourceId.1=aki-1&Tag.1.Key=k", image + "aki-1"},
		{"Action=DeleteTags&ResourceId.1=i-1", arn + "instance/i-1"},
		{"Action=CreateVpc&CidrBlock=10.0.0.0/16", arn + "vpc/*"},
		{"Action=DeleteVpc&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=ModifyVpcAttribute&VpcId=vpc-1&EnableDnsSupport.Value=true", arn + "vpc/vpc-1"},
		{"Action=AssociateVpcCidrBlock&VpcId=vpc-1&CidrBlock=10.0.0.0/16", arn + "vpc/vpc-1"},
		{"Action=CreateSubnet&VpcId=vpc-1&CidrBlock=10.0.0.0/24", arn + "subnet/*"},
		{"Action=CreateSubnet&VpcId=vpc-1&CidrBlock=10.0.0.0/24", arn + "vpc/vpc-1"},
		{"Action=DeleteSubnet&SubnetId=subnet-1", arn + "subnet/subnet-1"},
		{"Action=ModifySubnetAttribute&SubnetId=subnet-1&MapPublicIpOnLaunch.Value=true", arn + "subnet/subnet-1"},
		{"Action=CreateRouteTable&VpcId=vpc-1", arn + "route-table/*"},
		{"Action=CreateRouteTable&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=DeleteRouteTable&RouteTableId=rtb-1", arn + "route-table/rtb-1"},
		{"Action=CreateRoute&RouteTableId=rtb-1&DestinationCidrBlock=0.0.0.0/0&GatewayId=igw-1", arn + "route-table/rtb-1"},
		{"Action=ReplaceRoute&RouteTableId=rtb-1&DestinationCidrBlock=0.0.0.0/0&GatewayId=igw-1", arn + "route-table/rtb-1"},
		{"Action=DeleteRoute&RouteTableId=rtb-1&DestinationCidrBlock=0.0.0.0/0", arn + "route-table/rtb-1"},
		{"Action=AssociateRouteTable&RouteTableId=rtb-1&SubnetId=subnet-1", arn + "route-table/rtb-1"},
		{"Action=AssociateRouteTable&RouteTableId=rtb-1&SubnetId=subnet-1", arn + "subnet/subnet-1"},
		{"Action=CreateInternetGateway", arn + "internet-gateway/*"},
		{"Action=DeleteInternetGateway&InternetGatewayId=igw-1", arn + "internet-gateway/igw-1"},
		{"Action=AttachInternetGateway&InternetGatewayId=igw-1&VpcId=vpc-1", arn + "internet-gateway/igw-1"},
		{"Action=AttachInternetGateway&InternetGatewayId=igw-1&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=DetachInternetGateway&InternetGatewayId=igw-1&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=CreateNatGateway&SubnetId=subnet-1&AllocationId=eipalloc-1", arn + "natgateway/*"},
		{"Action=CreateNatGateway&SubnetId=subnet-1&AllocationId=eipalloc-1", arn + "subnet/subnet-1"},
		{"Action=CreateNatGateway&SubnetId=subnet-1&AllocationId=eipalloc-1", arn + "elastic-ip/eipalloc-1"},
		{"Action=DeleteNatGateway&NatGatewayId=nat-1", arn + "natgateway/nat-1"},
		{"Action=CreateSecurityGroup&GroupName=g&GroupDescription=d", arn + "security-group/*"},
		{"Action=CreateSecurityGroup&GroupName=g&GroupDescription=d", arn + "vpc/*"},
		{"Action=CreateSecurityGroup&GroupName=g&GroupDescription=d&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=DeleteSecurityGroup&GroupId=sg-1", arn + "security-group/sg-1"},
		{"Action=AuthorizeSecurityGroupIngress&GroupId=sg-1&IpProtocol=-1&CidrIp=10.0.0.0/8", arn + "security-group/sg-1"},
		{"Action=AuthorizeSecurityGroupEgress&GroupId=sg-1", arn + "security-group/sg-1"},
		{"Action=RevokeSecurityGroupIngress&GroupId=sg-1&SecurityGroupRuleId.1=sgr-1", arn + "security-group-rule/sgr-1"},
		{"Action=RevokeSecurityGroupEgress&GroupId=sg-1", arn + "security-group/sg-1"},
		{"Action=ModifySecurityGroupRules&GroupId=sg-1&SecurityGroupRule.1.SecurityGroupRuleId=sgr-1", arn + "security-group-rule/sgr-1"},
		{"Action=UpdateSecurityGroupRuleDescriptionsIngress&GroupId=sg-1", arn + "security-group/sg-1"},
		{"Action=UpdateSecurityGroupRuleDescriptionsEgress&GroupId=sg-1&SecurityGroupRuleDescription.1.SecurityGroupRuleId=sgr-1", arn + "security-group-rule/sgr-1"},
		{"Action=CreateTags&ResourceId.1=sgr-1&Tag.1.Key=k", arn + "security-group-rule/sgr-1"},
		{"Action=CreateNetworkAcl&VpcId=vpc-1", arn + "vpc/vpc-1"},
		{"Action=DeleteNetworkAcl&NetworkAclId=acl-1", arn + "network-acl/acl-1"},
		{"Action=DeleteNetworkAclEntry&NetworkAclId=acl-1&RuleNumber=1&Egress=true", arn + "network-acl/acl-1"},
		{"Action=CreateNetworkAclEntry&NetworkAclId=acl-1&RuleNumber=1&Egress=true&Protocol=-1&RuleAction=allow&CidrBlock=0.0.0.0/0", arn + "network-acl/acl-1"},
		{"Action=ReplaceNetworkAclEntry&NetworkAclId=acl-1&RuleNumber=1&Egress=true&Protocol=-1&RuleAction=allow&CidrBlock=0.0.0.0/0", arn + "network-acl/acl-1"},
		{"Action=CreateDhcpOptions&DhcpConfiguration.1.Key=domain-name&DhcpConfiguration.1.Value.1=a", arn + "dhcp-options/*"},
		{"Action=DeleteDhcpOptions&DhcpOptionsId=dopt-1", arn + "dhcp-options/dopt-1"},
		{"Action=AssociateDhcpOptions&DhcpOptionsId=dopt-1&VpcId=vpc-1", arn + "vpc/vpc-1"},
	} {
		t.Run(c.form+" "+c.denied, func(t *testing.T) {
			front, err := api.New(api.Config{Region: "r-1", Authority: but{c.denied}, Services: []api.Service{New(Config{Now: time.Now})}})
			if err != nil {
				t.Fatal(err)
			}
			body := c.form + "&Version=2016-11-15"
			r := httptest.NewRequest(http.MethodPost, "http://api/", strings.NewReader(body))
			sigv4.Signer{AccessKeyID: "AKIA", Secret: "s", Region: "r-1", Service: "ec2"}.Sign(
				sigv4.Request{Method: r.Method, Path: "/", Host: r.Host, Header: r.Header, Body: []byte(body)}, time.Now())
			w := httptest.NewRecorder()
			front.ServeHTTP(w, r)
			got, _ := io.ReadAll(w.Body)
			if want := "on resource: " + c.denied + "<"; w.Code != http.StatusForbidden || !strings.Contains(string(got), want) {
				t.Errorf("got %d %s, want 403 and %q", w.Code, got, want)
			}
		})
	}
}
