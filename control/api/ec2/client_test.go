package ec2

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/ichiro-metal/ichiro/control/api"
	shape "github.com/ichiro-metal/ichiro/control/api/shape/ec2"
)

// detached sends a copy of the body: see control/api's test of the same name.
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

// client returns Amazon's client, of a front over the rig's service.
func (r *rig) client() *sdk.Client {
	cfg := r.Config
	front, err := api.New(api.Config{Region: "r-1", Authority: but{}, Services: []api.Service{New(cfg)}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.Fatal(err)
	}
	server := httptest.NewServer(front)
	r.Cleanup(server.Close)
	return sdk.NewFromConfig(aws.Config{
		Region: "r-1", Credentials: credentials.NewStaticCredentialsProvider("AKIA", "s", ""), BaseEndpoint: &server.URL,
		Retryer: func() aws.Retryer { return aws.NopRetryer{} }, HTTPClient: detached{},
	})
}

// apiCode returns the code that the client was given.
func apiCode(err error) string {
	var e smithy.APIError
	if errors.As(err, &e) {
		return e.ErrorCode()
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// What Terraform's AWS provider does for a VPC with a public and a private subnet: each resource is made, waited for
// by asking until it is there, read again, and in the end deleted and asked for until its code says that it is gone.
func TestAStockClientBuildsANetworkAndTakesItDown(t *testing.T) {
	r := newRig(t)
	c, ctx := r.client(), t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tag := func(kind types.ResourceType) []types.TagSpecification {
		return []types.TagSpecification{{ResourceType: kind, Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("mine")}}}}
	}
	by := func(name, value string) []types.Filter {
		return []types.Filter{{Name: &name, Values: []string{value}}}
	}

	vpc, err := c.CreateVpc(ctx, &sdk.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16"), AmazonProvidedIpv6CidrBlock: aws.Bool(true), TagSpecifications: tag(types.ResourceTypeVpc)})
	must(err)
	id := vpc.Vpc.VpcId
	must(sdk.NewVpcAvailableWaiter(c).Wait(ctx, &sdk.DescribeVpcsInput{VpcIds: []string{*id}}, time.Minute))
	_, err = c.ModifyVpcAttribute(ctx, &sdk.ModifyVpcAttributeInput{VpcId: id, EnableDnsHostnames: &types.AttributeBooleanValue{Value: aws.Bool(true)}})
	must(err)
	for _, a := range []types.VpcAttributeName{types.VpcAttributeNameEnableDnsHostnames, types.VpcAttributeNameEnableDnsSupport} {
		out, err := c.DescribeVpcAttribute(ctx, &sdk.DescribeVpcAttributeInput{VpcId: id, Attribute: a})
		must(err)
		if v := cmp.Or(out.EnableDnsHostnames, out.EnableDnsSupport); v == nil || !*v.Value {
			t.Errorf("%s: got %+v, want true", a, out)
		}
	}
	association := *vpc.Vpc.Ipv6CidrBlockAssociationSet[0].AssociationId
	seen, err := c.DescribeVpcs(ctx, &sdk.DescribeVpcsInput{Filters: by("ipv6-cidr-block-association.association-id", association)})
	must(err)
	if len(seen.Vpcs) != 1 || seen.Vpcs[0].Ipv6CidrBlockAssociationSet[0].Ipv6CidrBlockState.State != types.VpcCidrBlockStateCodeAssociated {
		t.Errorf("got %+v, want the associated block that Terraform waits for", seen.Vpcs)
	}
	mains, err := c.DescribeRouteTables(ctx, &sdk.DescribeRouteTablesInput{Filters: append(by("association.main", "true"), by("vpc-id", *id)...)})
	must(err)
	if len(mains.RouteTables) != 1 || mains.RouteTables[0].Associations[0].AssociationState.State != types.RouteTableAssociationStateCodeAssociated {
		t.Errorf("got %+v", mains.RouteTables)
	}

	gateway, err := c.CreateInternetGateway(ctx, &sdk.CreateInternetGatewayInput{TagSpecifications: tag(types.ResourceTypeInternetGateway)})
	must(err)
	igw := gateway.InternetGateway.InternetGatewayId
	_, err = c.AttachInternetGateway(ctx, &sdk.AttachInternetGatewayInput{InternetGatewayId: igw, VpcId: id})
	must(err)
	must(sdk.NewInternetGatewayExistsWaiter(c).Wait(ctx, &sdk.DescribeInternetGatewaysInput{InternetGatewayIds: []string{*igw}}, time.Minute))
	attached, err := c.DescribeInternetGateways(ctx, &sdk.DescribeInternetGatewaysInput{InternetGatewayIds: []string{*igw}})
	must(err)
	if a := attached.InternetGateways[0].Attachments; len(a) != 1 || a[0].State != "available" {
		t.Errorf("got %+v, want the state available that Terraform waits for", a)
	}

	var subnets, tables, associations []string
	for _, cidr := range []string{"10.0.1.0/24", "10.0.2.0/24"} {
		s, err := c.CreateSubnet(ctx, &sdk.CreateSubnetInput{VpcId: id, CidrBlock: &cidr, AvailabilityZone: aws.String("r-1a"), TagSpecifications: tag(types.ResourceTypeSubnet)})
		must(err)
		must(sdk.NewSubnetAvailableWaiter(c).Wait(ctx, &sdk.DescribeSubnetsInput{SubnetIds: []string{*s.Subnet.SubnetId}}, time.Minute))
		rt, err := c.CreateRouteTable(ctx, &sdk.CreateRouteTableInput{VpcId: id, TagSpecifications: tag(types.ResourceTypeRouteTable)})
		must(err)
		a, err := c.AssociateRouteTable(ctx, &sdk.AssociateRouteTableInput{RouteTableId: rt.RouteTable.RouteTableId, SubnetId: s.Subnet.SubnetId})
		must(err)
		subnets, tables, associations = append(subnets, *s.Subnet.SubnetId), append(tables, *rt.RouteTable.RouteTableId), append(associations, *a.AssociationId)
	}
	_, err = c.ModifySubnetAttribute(ctx, &sdk.ModifySubnetAttributeInput{SubnetId: &subnets[0], MapPublicIpOnLaunch: &types.AttributeBooleanValue{Value: aws.Bool(true)}})
	must(err)
	nat, err := c.CreateNatGateway(ctx, &sdk.CreateNatGatewayInput{SubnetId: &subnets[0], AllocationId: aws.String(r.elastic()), TagSpecifications: tag(types.ResourceTypeNatgateway)})
	must(err)
	natID := nat.NatGateway.NatGatewayId
	must(sdk.NewNatGatewayAvailableWaiter(c).Wait(ctx, &sdk.DescribeNatGatewaysInput{NatGatewayIds: []string{*natID}}, time.Minute))
	_, err = c.CreateRoute(ctx, &sdk.CreateRouteInput{RouteTableId: &tables[0], DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: igw})
	must(err)
	_, err = c.CreateRoute(ctx, &sdk.CreateRouteInput{RouteTableId: &tables[1], DestinationCidrBlock: aws.String("0.0.0.0/0"), NatGatewayId: natID})
	must(err)
	for _, table := range tables {
		out, err := c.DescribeRouteTables(ctx, &sdk.DescribeRouteTablesInput{RouteTableIds: []string{table}})
		must(err)
		if k := slices.IndexFunc(out.RouteTables[0].Routes, func(r types.Route) bool {
			return aws.ToString(r.DestinationCidrBlock) == "0.0.0.0/0" && r.State == types.RouteStateActive && r.Origin == types.RouteOriginCreateRoute
		}); k < 0 {
			t.Errorf("got %+v, want the active route that Terraform waits for", out.RouteTables[0].Routes)
		}
	}
	_, err = c.CreateVpc(ctx, &sdk.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16"), DryRun: aws.Bool(true)})
	if got, want := apiCode(err), "DryRunOperation"; got != want {
		t.Errorf("a dry run: got %q, want %q", got, want)
	}

	for k := range tables {
		_, err = c.DeleteRoute(ctx, &sdk.DeleteRouteInput{RouteTableId: &tables[k], DestinationCidrBlock: aws.String("0.0.0.0/0")})
		must(err)
		_, err = c.DisassociateRouteTable(ctx, &sdk.DisassociateRouteTableInput{AssociationId: &associations[k]})
		must(err)
		_, err = c.DeleteRouteTable(ctx, &sdk.DeleteRouteTableInput{RouteTableId: &tables[k]})
		must(err)
	}
	_, err = c.DeleteNatGateway(ctx, &sdk.DeleteNatGatewayInput{NatGatewayId: natID})
	must(err)
	must(sdk.NewNatGatewayDeletedWaiter(c).Wait(ctx, &sdk.DescribeNatGatewaysInput{NatGatewayIds: []string{*natID}}, time.Minute))
	for k := range subnets {
		_, err = c.DeleteSubnet(ctx, &sdk.DeleteSubnetInput{SubnetId: &subnets[k]})
		must(err)
	}
	_, err = c.DeleteVpc(ctx, &sdk.DeleteVpcInput{VpcId: id})
	if got, want := apiCode(err), "DependencyViolation"; got != want {
		t.Errorf("with a gateway: got %q, want the %q on which Terraform tries again", got, want)
	}
	_, err = c.DetachInternetGateway(ctx, &sdk.DetachInternetGatewayInput{InternetGatewayId: igw, VpcId: id})
	must(err)
	_, err = c.DeleteInternetGateway(ctx, &sdk.DeleteInternetGatewayInput{InternetGatewayId: igw})
	must(err)
	_, err = c.DeleteVpc(ctx, &sdk.DeleteVpcInput{VpcId: id})
	must(err)

	_, err1 := c.DescribeVpcs(ctx, &sdk.DescribeVpcsInput{VpcIds: []string{*id}})
	_, err2 := c.DescribeSubnets(ctx, &sdk.DescribeSubnetsInput{SubnetIds: subnets})
	_, err3 := c.DescribeRouteTables(ctx, &sdk.DescribeRouteTablesInput{RouteTableIds: tables})
	_, err4 := c.DescribeInternetGateways(ctx, &sdk.DescribeInternetGatewaysInput{InternetGatewayIds: []string{*igw}})
	_, err5 := c.DisassociateRouteTable(ctx, &sdk.DisassociateRouteTableInput{AssociationId: &associations[0]})
	got := []string{apiCode(err1), apiCode(err2), apiCode(err3), apiCode(err4), apiCode(err5)}
	if want := []string{"InvalidVpcID.NotFound", "InvalidSubnetID.NotFound", "InvalidRouteTableID.NotFound", "InvalidInternetGatewayID.NotFound", "InvalidAssociationID.NotFound"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Pages of the network's describing actions hold what is asked for and show one moment.
func TestPagesOfTheNetwork(t *testing.T) {
	r := newRig(t)
	c, ctx := r.client(), t.Context()
	vpc := r.vpc("10.0.0.0/16")
	for _, cidr := range []string{"10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.4.0/24", "10.0.5.0/24", "10.0.6.0/24", "10.0.7.0/24"} {
		do(r, r.CreateNatGateway, shape.CreateNatGatewayInput{SubnetId: r.subnetOf(vpc, cidr), ConnectivityType: "private"})
		r.table(vpc)
		r.gateway("")
		r.vpc("10.1.0.0/16")
	}
	sizes := map[string][]int{}
	size := int32(5)
	for p := sdk.NewDescribeSubnetsPaginator(c, &sdk.DescribeSubnetsInput{MaxResults: &size}); p.HasMorePages(); {
		out, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sizes["subnets"] = append(sizes["subnets"], len(out.Subnets))
	}
	for p := sdk.NewDescribeVpcsPaginator(c, &sdk.DescribeVpcsInput{MaxResults: &size}); p.HasMorePages(); {
		out, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sizes["vpcs"] = append(sizes["vpcs"], len(out.Vpcs))
	}
	for p := sdk.NewDescribeRouteTablesPaginator(c, &sdk.DescribeRouteTablesInput{MaxResults: &size, Filters: []types.Filter{{Name: aws.String("vpc-id"), Values: []string{vpc}}}}); p.HasMorePages(); {
		out, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sizes["tables"] = append(sizes["tables"], len(out.RouteTables))
	}
	for p := sdk.NewDescribeInternetGatewaysPaginator(c, &sdk.DescribeInternetGatewaysInput{MaxResults: &size}); p.HasMorePages(); {
		out, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sizes["gateways"] = append(sizes["gateways"], len(out.InternetGateways))
	}
	for p := sdk.NewDescribeNatGatewaysPaginator(c, &sdk.DescribeNatGatewaysInput{MaxResults: &size}); p.HasMorePages(); {
		out, err := p.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		sizes["nats"] = append(sizes["nats"], len(out.NatGateways))
	}
	for want, in := range map[string]shape.DescribeRouteTablesInput{
		"":                      {MaxResults: ptr(int64(100))},
		"InvalidParameterValue": {MaxResults: ptr(int64(101))},
		"InvalidNextToken":      {NextToken: "x"},
	} {
		if _, got := try(r, r.DescribeRouteTables, in); got != want {
			t.Errorf("%v %q: got %q, want %q", digits(in.MaxResults), in.NextToken, got, want)
		}
	}
	for what, want := range map[string][]int{"subnets": {5, 3}, "vpcs": {5, 4}, "tables": {5, 3}, "gateways": {5, 3}, "nats": {5, 2}} {
		if !slices.Equal(sizes[what], want) {
			t.Errorf("%s: got pages of %v, want %v", what, sizes[what], want)
		}
	}
}

// The resources of an association are not in the request: they are what it joins.
func TestAnAssociationIsItsResources(t *testing.T) {
	r := newRig(t)
	vpc := r.vpc("10.0.0.0/16")
	subnet, table := r.subnetOf(vpc, "10.0.1.0/24"), r.table(vpc)
	a := do(r, r.AssociateRouteTable, shape.AssociateRouteTableInput{RouteTableId: table, SubnetId: subnet}).AssociationId
	main := do(r, r.DescribeRouteTables, shape.DescribeRouteTablesInput{Filters: append(filter("vpc-id", vpc), filter("association.main", "true")...)}).RouteTables[0]
	block := do(r, r.DescribeVpcs, shape.DescribeVpcsInput{VpcIds: []string{vpc}}).Vpcs[0].CidrBlockAssociationSet[0].AssociationId
	for _, c := range []struct{ got, want []string }{
		{r.joinedBy(a), []string{"route-table/" + table, "subnet/" + subnet}},
		{r.joinedBy(main.Associations[0].RouteTableAssociationId), []string{"route-table/" + main.RouteTableId}},
		{r.joinedBy("rtbassoc-12345678"), []string{"route-table/*"}},
		{r.joinedBy(""), []string{"route-table/*"}},
		{[]string{r.blockOwner(&shape.DisassociateVpcCidrBlockInput{AssociationId: block})}, []string{vpc}},
		{[]string{r.blockOwner(&shape.DisassociateVpcCidrBlockInput{AssociationId: "vpc-cidr-assoc-12345678"})}, []string{"*"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("got %v, want %v", c.got, c.want)
		}
	}
}
