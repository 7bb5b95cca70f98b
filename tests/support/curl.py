"""The options of curl that the documents use, so that their commands run where curl is not installed.

usage: curl.py [-sS] [-i] [-X METHOD] [-H HEADER|@FILE] [-d BODY] URL
"""

import argparse
import sys
from pathlib import Path

import httpx


def main() -> None:
    """Send the request and print the answer as curl does; with ``-i`` also the status line and the headers."""
    options = argparse.ArgumentParser()
    options.add_argument("-sS", action="store_true")
    options.add_argument("-i", action="store_true", dest="include")
    options.add_argument("-X", dest="method")
    options.add_argument("-H", dest="headers", action="append", default=[])
    options.add_argument("-d", dest="body")
    options.add_argument("url")
    given = options.parse_args()
    lines = [Path(text[1:]).read_text() if text.startswith("@") else text for text in given.headers]
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if given.body is not None:
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    method = given.method or ("GET" if given.body is None else "POST")
    answer = httpx.request(method, given.url, headers=headers, content=given.body, trust_env=False, timeout=30)
    if given.include:
        print(f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}")
        print("".join(f"{name}: {value}\n" for name, value in answer.headers.items()))
    sys.stdout.write(answer.text + ("\n" if answer.text else ""))


if __name__ == "__main__":
    main()
