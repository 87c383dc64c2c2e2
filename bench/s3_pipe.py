"""Standard input to an object, an object to standard output, by boto3: what a shell script's `aws s3 cp -` does."""

import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from bench.measuring import MIB
from bench.servers import BUCKET


def main() -> None:
    """`put|get ENDPOINT KEY`, or `bucket ENDPOINT…`."""
    action, *rest = sys.argv[1:]
    transfer = TransferConfig(multipart_chunksize=16 * MIB, max_concurrency=4)
    style = Config(s3={"addressing_style": "path"})
    if action == "bucket":
        for endpoint in rest:
            boto3.client("s3", endpoint_url=endpoint, config=style).create_bucket(Bucket=BUCKET)
        return
    endpoint, key = rest
    client = boto3.client("s3", endpoint_url=endpoint, config=style)
    if action == "put":
        client.upload_fileobj(sys.stdin.buffer, BUCKET, key, Config=transfer)
    else:
        client.download_fileobj(BUCKET, key, sys.stdout.buffer, Config=transfer)


if __name__ == "__main__":
    main()
