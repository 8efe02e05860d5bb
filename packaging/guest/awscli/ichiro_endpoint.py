# Lets an AWS CLI from before 2.13, such as Debian 12's, find its endpoint where later ones do: in AWS_ENDPOINT_URL, or as
# endpoint_url of the profile. ichiro-aws-config names it in ~/.aws/config where it is needed.
import os


def _fill(parsed_args, session, **_):
    if parsed_args.endpoint_url is None:
        parsed_args.endpoint_url = os.environ.get("AWS_ENDPOINT_URL") or session.get_scoped_config().get("endpoint_url")


def awscli_initialize(events):
    events.register("top-level-args-parsed", _fill)
