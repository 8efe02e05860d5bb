//go:build walk

package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// configuration is what a user of Terraform writes: the region is none of Amazon's, which the provider must be told; all else that it
// checks by itself it checks, and the API's address comes from the environment.
const configuration = `
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

provider "aws" {
  skip_region_validation = true
}

data "aws_availability_zones" "all" {}

data "aws_caller_identity" "me" {}

data "aws_ami" "small" {
  owners      = ["self"]
  most_recent = true
  filter {
    name   = "name"
    values = ["ichiro-micro"]
  }
}

resource "aws_vpc" "v" {
  cidr_block           = "10.40.0.0/16"
  enable_dns_hostnames = true
  tags                 = { Name = "walk" }
}

resource "aws_subnet" "s" {
  count             = 2
  vpc_id            = aws_vpc.v.id
  cidr_block        = cidrsubnet(aws_vpc.v.cidr_block, 8, count.index + 1)
  availability_zone = data.aws_availability_zones.all.names[0]
}

resource "aws_internet_gateway" "g" {
  vpc_id = aws_vpc.v.id
}

resource "aws_route_table" "t" {
  vpc_id = aws_vpc.v.id
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.g.id
  }
}

resource "aws_route_table_association" "a" {
  count          = 2
  subnet_id      = aws_subnet.s[count.index].id
  route_table_id = aws_route_table.t.id
}

resource "aws_security_group" "inner" {
  name   = "inner"
  vpc_id = aws_vpc.v.id
}

resource "aws_security_group" "web" {
  name   = "web"
  vpc_id = aws_vpc.v.id
  ingress {
    from_port   = 80
    to_port     = 80
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }
  ingress {
    from_port       = 0
    to_port         = 0
    protocol        = "-1"
    security_groups = [aws_security_group.inner.id]
  }
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_vpc_security_group_ingress_rule" "ping" {
  security_group_id            = aws_security_group.inner.id
  referenced_security_group_id = aws_security_group.web.id
  ip_protocol                  = "icmp"
  from_port                    = -1
  to_port                      = -1
}

resource "aws_network_acl" "n" {
  vpc_id     = aws_vpc.v.id
  subnet_ids = [aws_subnet.s[1].id]
  ingress {
    protocol   = "-1"
    rule_no    = 100
    action     = "allow"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
  egress {
    protocol   = "-1"
    rule_no    = 100
    action     = "allow"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
}

resource "aws_vpc_dhcp_options" "d" {
  domain_name         = "walk.example"
  domain_name_servers = ["AmazonProvidedDNS"]
}

resource "aws_vpc_dhcp_options_association" "d" {
  vpc_id          = aws_vpc.v.id
  dhcp_options_id = aws_vpc_dhcp_options.d.id
}

resource "aws_iam_role" "r" {
  name               = "terraformed"
  assume_role_policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Principal = { Service = "ec2.amazonaws.com" }, Action = "sts:AssumeRole" }] })
}

resource "aws_iam_role_policy" "p" {
  role   = aws_iam_role.r.id
  policy = jsonencode({ Version = "2012-10-17", Statement = [{ Effect = "Allow", Action = "ec2:DescribeInstances", Resource = "*" }] })
}

resource "aws_iam_instance_profile" "p" {
  name = "terraformed"
  role = aws_iam_role.r.name
}

resource "aws_instance" "i" {
  ami                    = data.aws_ami.small.id
  instance_type          = "t2.small"
  subnet_id              = aws_subnet.s[0].id
  private_ip             = "10.40.1.10"
  secondary_private_ips  = ["10.40.1.11"]
  vpc_security_group_ids = [aws_security_group.web.id]
  iam_instance_profile   = aws_iam_instance_profile.p.name
  user_data              = "#!/bin/sh\necho terraformed\n"
  metadata_options {
    http_tokens = "required"
  }
  tags = { Name = "walk" }
}

resource "aws_network_interface" "more" {
  subnet_id       = aws_subnet.s[1].id
  private_ips     = ["10.40.2.20", "10.40.2.21"]
  security_groups = [aws_security_group.inner.id]
}

resource "aws_network_interface_attachment" "more" {
  instance_id          = aws_instance.i.id
  network_interface_id = aws_network_interface.more.id
  device_index         = 1
}

resource "aws_eip" "e" {
  domain = "vpc"
}

resource "aws_eip_association" "e" {
  allocation_id        = aws_eip.e.id
  network_interface_id = aws_network_interface.more.id
  private_ip_address   = "10.40.2.20"
  depends_on           = [aws_internet_gateway.g, aws_network_interface_attachment.more]
}

output "account" {
  value = data.aws_caller_identity.me.account_id
}
`

// TestTerraform has stock Terraform make a network with an instance in it, find nothing to change afterwards, and take it all away.
// Terraform and its AWS provider are in no package source: where they are not, this is skipped. ICHIRO_TERRAFORM_MIRROR names
// a directory with the provider, in the layout of a file system mirror.
func TestTerraform(t *testing.T) {
	program, err := exec.LookPath("terraform")
	mirror := os.Getenv("ICHIRO_TERRAFORM_MIRROR")
	if err != nil || mirror == "" {
		t.Skip("it needs terraform in PATH, and ICHIRO_TERRAFORM_MIRROR to name a directory with its AWS provider")
	}
	h := the(t)
	h.image(t)
	before := traces(t, h)
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("main.tf", configuration)
	cli := file("cli.rc", "provider_installation {\n  filesystem_mirror {\n    path = \""+mirror+"\"\n  }\n}\n")
	terraform := func(ctx context.Context, args ...string) (string, int) {
		t.Helper()
		began := time.Now()
		cmd := exec.CommandContext(ctx, program, append(args, "-no-color")...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+cli, "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "AWS_ENDPOINT_URL="+h.url, "AWS_DEFAULT_REGION="+h.region,
			"AWS_REGION="+h.region, "AWS_ACCESS_KEY_ID="+h.key[0], "AWS_SECRET_ACCESS_KEY="+h.key[1], "AWS_EC2_METADATA_DISABLED=true")
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		t.Logf("terraform %s: %v", args[0], time.Since(began).Round(100*time.Millisecond))
		return string(out), cmd.ProcessState.ExitCode()
	}
	must := func(ctx context.Context, args ...string) string {
		t.Helper()
		out, code := terraform(ctx, args...)
		if code != 0 {
			t.Fatalf("terraform %s ended with %d\n%s", args[0], code, out)
		}
		return out
	}
	must(t.Context(), "init")
	over := false
	t.Cleanup(func() {
		if !over {
			terraform(noCancel(t), "destroy", "-auto-approve")
		}
	})
	must(t.Context(), "apply", "-auto-approve")
	if out, code := terraform(t.Context(), "plan", "-detailed-exitcode"); code != 0 {
		t.Errorf("a plan after it would change something (code %d)\n%s", code, out)
	}
	if out := must(t.Context(), "state", "list"); !strings.Contains(out, "aws_eip_association.e") {
		t.Errorf("the state has only\n%s", out)
	}
	over = true
	must(t.Context(), "destroy", "-auto-approve")
	h.clean(t, before)
}
