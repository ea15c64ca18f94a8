"""payloads.py - raw requests, most of them hostile, and the status each must get.

A row is (name, status, bytes). Every row must be answered exactly once, with a JSON error unless the
status is 2xx, and the connection must be closed behind the answer. `status` may be a tuple where the
standards leave a choice that we do not care about.
"""

HOST = b"Host: taca\r\n"
JSON = b"Content-Type: application/json\r\n"
BODY = b'{"prompt":"now"}'
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


def get(target=b"/", fields=HOST, version=b"HTTP/1.1", behind=b""):
    return b"GET " + target + b" " + version + b"\r\n" + fields + b"\r\n" + behind


def post(fields, body=b"", version=b"HTTP/1.1", host=HOST):
    head = b"POST /v1/generate " + version + b"\r\n" + host + JSON
    return head + fields + b"\r\n" + body


def sized(length, body=BODY, more=b""):
    return post(b"Content-Length: " + length + b"\r\n" + more, body)


def coded(coding, body=b"10\r\n" + BODY + b"\r\n0\r\n\r\n", more=b"", version=b"HTTP/1.1"):
    return post(b"Transfer-Encoding: " + coding + b"\r\n" + more, body, version)


def chunks(body):
    return coded(b"chunked", body)


N = str(len(BODY)).encode()

ROWS = [
    # what must work
    ("the page", 200, get()),
    ("a probe", 200, get(b"/livez")),
    ("HEAD", 200, b"HEAD /health HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("a query is ignored", 200, get(b"/health?a=1&b=%20")),
    ("HTTP/1.0 without Host", 200, get(fields=b"", version=b"HTTP/1.0")),
    ("HTTP/1.0 that wants to stay", 200,
     get(fields=HOST + b"Connection: keep-alive\r\n", version=b"HTTP/1.0")),
    ("HTTP/1.1 that wants to stay", 200, get(fields=HOST + b"Connection: keep-alive\r\n")),
    ("one empty line before", 200, b"\r\n" + get()),
    ("absolute form", 200, get(b"http://somewhere/health")),
    ("absolute form without path", 200, get(b"http://somewhere")),
    ("absolute form, unknown path", 404, get(b"http://somewhere/x")),
    ("escaped letter in a path", 200, get(b"/%68ealth")),
    ("a job", 200, sized(N)),
    ("a job in HTTP/1.0", 200, post(b"Content-Length: " + N + b"\r\n", BODY, b"HTTP/1.0")),
    ("a chunked job", 200, chunks(b"10\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("a job in small chunks", 200,
     chunks(b"".join(b"1\r\n" + BODY[i:i + 1] + b"\r\n" for i in range(len(BODY))) + b"0\r\n\r\n")),
    ("a chunk extension", 200, chunks(b"10;a=b\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("a trailer", 200, chunks(b"10\r\n" + BODY + b"\r\n0\r\nX-T: 1\r\n\r\n")),
    ("chunked in capitals", 200, coded(b"CHUNKED")),
    ("Expect: 100-continue", 200, sized(N, more=b"Expect: 100-continue\r\n")),
    ("GET with a body", 200, get(fields=HOST + b"Content-Length: 5\r\n", behind=b"ABCDE")),
    ("OPTIONS *", 204, b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("OPTIONS of a path", 204, b"OPTIONS /v1/generate HTTP/1.1\r\n" + HOST + b"\r\n"),
    # one connection is one request
    ("two at once", 200, get() + SMUGGLED),
    ("junk behind", 200, get() + b"Invalid\r\n\r\n"),
    ("a body and a second request", 200,
     get(fields=HOST + b"Content-Length: 5\r\n", behind=b"ABCDE" + SMUGGLED)),
    ("a job and a second request", 200, sized(N, BODY + SMUGGLED)),
    ("a chunked job and a second request", 200,
     chunks(b"10\r\n" + BODY + b"\r\n0\r\n\r\n" + SMUGGLED)),
    # the routes' refusals
    ("unknown path", 404, get(b"/nothing")),
    ("path upwards", 404, get(b"/../../etc/passwd")),
    ("escaped path upwards", 404, get(b"/%2e%2e/%2e%2e/etc/passwd")),
    ("double slash", 404, get(b"//health")),
    ("slash behind", 404, get(b"/health/")),
    ("GET of a job route", 405, get(b"/v1/generate")),
    ("POST to a page", 405, b"POST /health HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"),
    ("DELETE", 405, b"DELETE /v1/generate HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("PUT", 405, b"PUT /health HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"),
    ("no content type", 415,
     b"POST /v1/generate HTTP/1.1\r\n" + HOST + b"Content-Length: " + N + b"\r\n\r\n" + BODY),
    ("another content type", 415,
     b"POST /v1/generate HTTP/1.1\r\n" + HOST + b"Content-Type: text/plain\r\nContent-Length: " + N
     + b"\r\n\r\n" + BODY),
    ("a longer content type", 415,
     b"POST /v1/generate HTTP/1.1\r\n" + HOST
     + b"Content-Type: application/jsonx\r\nContent-Length: " + N + b"\r\n\r\n" + BODY),
    ("no body", 400, post(b"")),
    ("empty body", 400, sized(b"0", b"")),
    ("empty chunked body", 400, chunks(b"0\r\n\r\n")),
    ("not JSON", 400, sized(b"5", b"hello")),
    ("unknown field", 400, sized(b"25", b'{"prompt":"now","foo": 1}')),
    ("nothing acceptable", 406, sized(N, more=b"Accept: text/html\r\n")),
    # request line
    ("HTTP/0.9", 400, b"GET /\r\n"),
    ("HTTP/2.0", 505, get(version=b"HTTP/2.0")),
    ("HTTP/1.32", 505, get(version=b"HTTP/1.32")),
    ("small version", 400, get(version=b"http/1.1")),
    ("CRs in the version", 400, get(version=b"HTTP/\r\r1.1")),
    ("HTTP/2 preface", 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("TLS", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64),
    ("bare LF everywhere", 400, b"GET / HTTP/1.1\nHost: a\n\n"),
    ("method of odd bytes", 400, b'G="<>[T];?" / HTTP/1.1\r\n' + HOST + b"\r\n"),
    ("NUL method", 400, b"\x00 / HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("small method", 405, b"get / HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("CONNECT", 405, b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("TRACE", 405, b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("many blanks", 400, b"GET   /    HTTP/1.1\r\n" + HOST + b"\r\n"),
    ("tabs", 400, b"GET\t/\tHTTP/1.1\r\n" + HOST + b"\r\n"),
    ("blank in the target", 400, get(b"/a b")),
    ("two empty lines before", 400, b"\r\n\r\n" + get()),
    ("%00", 400, get(b"/a%00b")),
    ("half an escape", 400, get(b"/a%4")),
    ("high byte in the target", 400, get(b"/\xc3\xa9")),
    ("fragment", 400, get(b"/#a")),
    ("GET *", 400, get(b"*")),
    ("user in the authority", 400, get(b"http://u:p@h/")),
    # fields
    ("no Host", 400, get(fields=b"")),
    ("two Hosts", 400, get(fields=HOST + HOST)),
    ("blank before a colon", 400, get(fields=b"Host : a\r\n")),
    ("folded line", 400, get(fields=HOST + b"X: a\r\n b\r\n")),
    ("fold that would make a length", 400, post(b"Content-Len: 35\r\n gth\r\n", BODY)),
    ("fold that would make a coding", 400, post(b"Transfer-Encod: chunked\r\n ing\r\n", BODY)),
    ("blank before the first field", 400, get(fields=b"\tContent-Length: 1\r\n" + HOST)),
    ("no colon", 400, get(fields=HOST + b"Foo bar\r\n")),
    ("no name", 400, get(fields=HOST + b": x\r\n")),
    ("NUL in a value", 400, get(fields=HOST + b"X: a\x00b\r\n")),
    ("NUL in a name", 400, get(fields=HOST + b"X\x00Y: a\r\n")),
    ("CR in a value", 400, get(fields=HOST + b"X: a\rb\r\n")),
    ("controls in a name", 400, get(fields=HOST + b"X\x01\x7f(): a\r\n")),
    ("high byte in a name", 400, get(fields=HOST + b"X\xef: a\r\n")),
    ("CR Z at the end", 400, b"GET / HTTP/1.1\r\n" + HOST + b"\rZ" + SMUGGLED),
    ("unknown expectation", 417, sized(b"0", b"", b"Expect: tea\r\n")),
    # sizes
    ("a header of 64 KiB", 431, get(fields=HOST + b"X: " + b"a" * 65536 + b"\r\n")),
    ("5000 headers", 431,
     get(fields=HOST + b"".join(b"A%d: b\r\n" % i for i in range(5000)))),
    ("a target of 64 KiB", 414, get(b"/" + b"a" * 65536)),
    ("1000 query arguments", 414, get(b"/?" + b"a&" * 1000)),
    ("1000 cookies", 431, get(fields=HOST + b"Cookie: " + b"a=b;" * 1000 + b"\r\n")),
    ("a full head with a full cookie", 200,
     get(fields=HOST + b"Cookie: a=" + b"b" * 15000 + b"\r\n")),
    ("a full head of lines", 200,
     get(fields=HOST + b"".join(b"A%d: %s\r\n" % (i, b"b" * 140) for i in range(99)))),
    ("64 query arguments", 200, get(b"/health?" + b"a=b&" * 63)),
    # lengths
    ("blank before the colon of a length", 400, post(b"Content-Length : " + N + b"\r\n", BODY)),
    ("length +", 400, sized(b"+" + N)),
    ("length -", 400, sized(b"-" + N)),
    ("length 0x", 400, sized(b"0x10")),
    ("length and a letter", 400, sized(N + b"Z")),
    ("empty length", 400, sized(b"")),
    ("a list of lengths", 400, sized(N + b"," + N)),
    ("length and a blank", 400, sized(N + b" ")),
    ("length 2^64", 413, sized(b"18446744073709551616")),
    ("length 2^64-1", 413, sized(b"18446744073709551615")),
    ("length one above the cap", 413, sized(b"262145", b"")),
    ("two lengths, first larger", 400, sized(N, more=b"Content-Length: 0\r\n")),
    ("two lengths, second larger", 400, sized(b"0", more=b"Content-Length: " + N + b"\r\n")),
    ("two equal lengths", 400, sized(N, more=b"Content-Length: " + N + b"\r\n")),
    # codings
    ("length and chunked", 400,
     sized(b"5", b"0\r\n\r\n" + SMUGGLED, b"Transfer-Encoding: chunked\r\n")),
    ("chunked and length", 400,
     coded(b"chunked", b"0\r\n\r\n" + SMUGGLED, b"Content-Length: 5\r\n")),
    ("identity and length", 400, coded(b"identity", BODY, b"Content-Length: " + N + b"\r\n")),
    ("xchunked", 501, coded(b"xchunked")),
    (",chunked", 501, coded(b",chunked")),
    ("gzip, chunked", 501, coded(b"gzip, chunked")),
    ("chunked behind a no-break space", 501, coded(b"\xa0chunked")),
    ("chunked and a blank", 501, coded(b"chunked ")),
    ("chunked twice", 400, coded(b"chunked", more=b"Transfer-Encoding: chunked\r\n")),
    ("chunked and identity", 400, coded(b"chunked", more=b"Transfer-Encoding: identity\r\n")),
    ("chunked in HTTP/1.0", 400, coded(b"chunked", version=b"HTTP/1.0")),
    # chunk framing
    ("chunk size 0x", 400, chunks(b"0x10\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("chunk size +", 400, chunks(b"+10\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("chunk size _", 400, chunks(b"1_0\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("empty chunk size", 400, chunks(b"\r\n\r\n")),
    ("blank before a chunk size", 400, chunks(b" 10\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("chunk size of 17 digits", 400, chunks(b"FFFFFFFFFFFFFFFFF\r\n")),
    ("chunk above the cap", 413, chunks(b"40001\r\n")),
    ("CRs in a chunk extension", 400, chunks(b"10\r\r;A\r\n" + BODY + b"\r\n0\r\n\r\n")),
    ("bare LF in chunks", 400, chunks(b"10\n" + BODY + b"\n0\n\n")),
    ("chunk without an end", 400, chunks(b"10\r\n" + BODY + b"XX0\r\n\r\n")),
    ("chunk longer than said", 400, chunks(b"f\r\n" + BODY + b"\r\n0\r\n\r\n")),
]
