/* test_head.c - the strict reading of request heads: a table of verdicts, and the promise that a
 * verdict does not depend on where the network cut the bytes. */
#include "server/head.h"

#include "base/buf.h"
#include "tests/test.h"

enum { MAX_BODY = 262144 };

struct row {
    const char *name;
    int want; /* HEAD_GOOD, HEAD_MORE, or the refusal's status */
    const char *bytes;
    size_t len; /* 0: strlen */
};
#define H       "Host: a\r\n"
#define RAW(s)  (s), sizeof(s) - 1
#define CHUNKED "Transfer-Encoding: chunked\r\n"

static const struct row rows[] = {
    /* plain good ones */
    {"smallest", 200, "GET / HTTP/1.1\r\n" H "\r\n", 0},
    {"path and query", 200, "GET /a/b?x=1&y=%20z HTTP/1.1\r\n" H "\r\n", 0},
    {"HEAD", 200, "HEAD /health HTTP/1.1\r\n" H "\r\n", 0},
    {"PUT is left to the routes", 200, "PUT / HTTP/1.1\r\n" H "\r\n", 0},
    {"DELETE is left to the routes", 200, "DELETE / HTTP/1.1\r\n" H "\r\n", 0},
    {"OPTIONS on everything", 200, "OPTIONS * HTTP/1.1\r\n" H "\r\n", 0},
    {"POST with a length", 200, "POST /v1/generate HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nABCDE",
     0},
    {"POST without a body", 200, "POST / HTTP/1.1\r\n" H "\r\n", 0},
    {"length zero", 200, "POST / HTTP/1.1\r\n" H "Content-Length: 0\r\n\r\n", 0},
    {"largest length", 200, "POST / HTTP/1.1\r\n" H "Content-Length: 262144\r\n\r\n", 0},
    {"length in odd case", 200, "POST / HTTP/1.1\r\n" H "cOnTeNt-LeNgTh: 5\r\n\r\n", 0},
    {"GET with a body", 200, "GET / HTTP/1.1\r\n" H "Content-Length: 5\r\n\r\nABCDE", 0},
    {"chunked", 200, "POST / HTTP/1.1\r\n" H CHUNKED "\r\n", 0},
    {"chunked in odd case", 200, "POST / HTTP/1.1\r\n" H "transfer-encoding: CHUNKED\r\n\r\n", 0},
    {"HTTP/1.0 without Host", 200, "GET / HTTP/1.0\r\n\r\n", 0},
    {"HTTP/1.0 with Host", 200, "GET / HTTP/1.0\r\n" H "\r\n", 0},
    {"keep-alive is ignored", 200, "GET / HTTP/1.1\r\n" H "Connection: keep-alive\r\n\r\n", 0},
    {"no blank behind the colon", 200, "GET / HTTP/1.1\r\nHost:a\r\n\r\n", 0},
    {"tab behind the colon", 200, "GET / HTTP/1.1\r\nHost:\ta\r\n\r\n", 0},
    {"blanks behind the value", 200, "GET / HTTP/1.1\r\nHost: a \t\r\n\r\n", 0},
    {"empty Host", 200, "GET / HTTP/1.1\r\nHost:\r\n\r\n", 0},
    {"empty value", 200, "GET / HTTP/1.1\r\n" H "X:\r\n\r\n", 0},
    {"tab in a value", 200, "GET / HTTP/1.1\r\n" H "X: a\tb\r\n\r\n", 0},
    {"high bytes in a value", 200, "GET / HTTP/1.1\r\n" H "X: \xc3\xa9\xff\r\n\r\n", 0},
    {"every token character", 200, "GET / HTTP/1.1\r\n" H "!#$%&'*+-.^_`|~09aZ: x\r\n\r\n", 0},
    {"colons in a value", 200, "GET / HTTP/1.1\r\n" H "X: a:b:c\r\n\r\n", 0},
    {"Expect: 100-continue", 200,
     "POST / HTTP/1.1\r\n" H "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", 0},
    {"Expect in odd case", 200,
     "POST / HTTP/1.1\r\n" H "Expect: 100-Continue\r\nContent-Length: 3\r\n\r\n", 0},
    {"Expect in HTTP/1.0 means nothing", 200, "POST / HTTP/1.0\r\n" H "Expect: tea\r\n\r\n", 0},
    {"absolute form", 200, "GET http://a/x HTTP/1.1\r\n" H "\r\n", 0},
    {"absolute form, https, port", 200, "GET https://a:443/x HTTP/1.1\r\n" H "\r\n", 0},
    {"absolute form without a path", 200, "GET http://a HTTP/1.1\r\n" H "\r\n", 0},
    {"absolute form, odd case", 200, "GET HTTP://a/ HTTP/1.1\r\n" H "\r\n", 0},
    {"one empty line before", 200, "\r\nGET / HTTP/1.1\r\n" H "\r\n", 0},
    {"escaped dots", 200, "GET /%2e%2e/%2E HTTP/1.1\r\n" H "\r\n", 0},
    {"dot segments", 200, "GET /../../etc HTTP/1.1\r\n" H "\r\n", 0},
    {"a second request behind", 200, "GET / HTTP/1.1\r\n" H "\r\nGET /2 HTTP/1.1\r\n" H "\r\n", 0},
    {"junk behind", 200, "GET / HTTP/1.1\r\n" H "\r\n\x01\x02\x03", 0},
    {"Upgrade is ignored", 200, "GET / HTTP/1.1\r\n" H "Upgrade: h2c\r\n\r\n", 0},
    {"a cookie or two", 200, "GET / HTTP/1.1\r\n" H "Cookie: a=b; c=\"d\"\r\n\r\n", 0},
    {"TE is not Transfer-Encoding", 200, "GET / HTTP/1.1\r\n" H "TE: trailers\r\n\r\n", 0},
    {"Content-Length-X is not it", 200, "GET / HTTP/1.1\r\n" H "Content-Length-X: z\r\n\r\n", 0},
    /* not yet */
    {"nothing", 0, "", 0},
    {"half a method", 0, "GE", 0},
    {"no line end", 0, "GET / HTTP/1.1", 0},
    {"one line", 0, "GET / HTTP/1.1\r\n", 0},
    {"half an end", 0, "GET / HTTP/1.1\r\n" H "\r", 0},
    {"only the early empty line", 0, "\r\n", 0},
    /* request line */
    {"HTTP/0.9", 400, "GET /\r\n", 0},
    {"HTTP/0.9 by number", 505, "GET / HTTP/0.9\r\n" H "\r\n", 0},
    {"HTTP/2.0", 505, "GET / HTTP/2.0\r\n" H "\r\n", 0},
    {"HTTP/2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
    {"HTTP/1.2", 505, "GET / HTTP/1.2\r\n" H "\r\n", 0},
    {"HTTP/1.32", 505, "GET / HTTP/1.32\r\n" H "\r\n", 0},
    {"HTTP/1.", 400, "GET / HTTP/1.\r\n" H "\r\n", 0},
    {"HTTP/11", 400, "GET / HTTP/11\r\n" H "\r\n", 0},
    {"small http", 400, "GET / http/1.1\r\n" H "\r\n", 0},
    {"HTTX", 400, "GET / HTTX/1.1\r\n" H "\r\n", 0},
    {"CR in the version", 400, "GET / HTTP/\r\r1.1\r\n" H "\r\n", 0},
    {"letters in the version", 400, "GET / HTTP/1.x1\r\n" H "\r\n", 0},
    {"no method", 400, " / HTTP/1.1\r\n" H "\r\n", 0},
    {"odd method bytes", 400, "G=\"<>[T];?\" / HTTP/1.1\r\n" H "\r\n", 0},
    {"method with a high byte", 400, "G\xe9T / HTTP/1.1\r\n" H "\r\n", 0},
    {"NUL method", 400, RAW("\0 / HTTP/1.1\r\n" H "\r\n")},
    {"two blanks", 400, "GET  / HTTP/1.1\r\n" H "\r\n", 0},
    {"many blanks", 400, "GET   /    HTTP/1.1\r\n" H "\r\n", 0},
    {"blank behind the version", 400, "GET / HTTP/1.1 \r\n" H "\r\n", 0},
    {"tabs between", 400, "GET\t/\tHTTP/1.1\r\n" H "\r\n", 0},
    {"blank in the target", 400, "GET /a b HTTP/1.1\r\n" H "\r\n", 0},
    {"no target", 400, "GET  HTTP/1.1\r\n" H "\r\n", 0},
    {"two empty lines before", 400, "\r\n\r\nGET / HTTP/1.1\r\n" H "\r\n", 0},
    {"LF before", 400, "\nGET / HTTP/1.1\r\n" H "\r\n", 0},
    {"CR before", 400, "\rGET / HTTP/1.1\r\n" H "\r\n", 0},
    {"small get", 405, "get / HTTP/1.1\r\n" H "\r\n", 0},
    {"CONNECT", 405, "CONNECT a:1 HTTP/1.1\r\n" H "\r\n", 0},
    {"TRACE", 405, "TRACE / HTTP/1.1\r\n" H "\r\n", 0},
    {"PATCH", 405, "PATCH / HTTP/1.1\r\n" H "\r\n", 0},
    {"GETT", 405, "GETT / HTTP/1.1\r\n" H "\r\n", 0},
    {"star is for OPTIONS", 400, "GET * HTTP/1.1\r\n" H "\r\n", 0},
    {"a relative target", 400, "GET a HTTP/1.1\r\n" H "\r\n", 0},
    {"ftp", 400, "GET ftp://a/ HTTP/1.1\r\n" H "\r\n", 0},
    {"file", 400, "GET file:///etc/passwd HTTP/1.1\r\n" H "\r\n", 0},
    {"absolute form without a host", 400, "GET http:///x HTTP/1.1\r\n" H "\r\n", 0},
    {"user in the authority", 400, "GET http://u:p@a/ HTTP/1.1\r\n" H "\r\n", 0},
    {"authority form", 400, "GET a:80 HTTP/1.1\r\n" H "\r\n", 0},
    {"%00", 400, "GET /a%00b HTTP/1.1\r\n" H "\r\n", 0},
    {"cut %", 400, "GET /a% HTTP/1.1\r\n" H "\r\n", 0},
    {"cut %4", 400, "GET /a%4 HTTP/1.1\r\n" H "\r\n", 0},
    {"bad %zz", 400, "GET /%zz HTTP/1.1\r\n" H "\r\n", 0},
    {"fragment", 400, "GET /#x HTTP/1.1\r\n" H "\r\n", 0},
    {"high byte in the target", 400, "GET /\xc3\xa9 HTTP/1.1\r\n" H "\r\n", 0},
    {"DEL in the target", 400, "GET /\x7f HTTP/1.1\r\n" H "\r\n", 0},
    {"TLS hello", 400, RAW("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")},
    {"SSH", 0, "SSH-2.0-OpenSSH_9.2", 0},
    {"SSH with its line end", 400, "SSH-2.0-OpenSSH_9.2\r\n", 0},
    {"JSON instead of HTTP", 400, "{\"prompt\":\"a cat\"}\r\n", 0},
    /* line ends */
    {"bare LF everywhere", 400, "GET / HTTP/1.1\nHost: a\n\n", 0},
    {"bare LF behind a field", 400, "GET / HTTP/1.1\r\nHost: a\n\r\n", 0},
    {"bare LF at the end", 400, "GET / HTTP/1.1\r\n" H "\n", 0},
    {"CR X at the end", 400, "GET / HTTP/1.1\r\n" H "\rZGET /evil HTTP/1.1\r\n" H "\r\n", 0},
    {"CR CR LF", 400, "GET / HTTP/1.1\r\r\n" H "\r\n", 0},
    {"CR in a value", 400, "GET / HTTP/1.1\r\n" H "X: a\rb\r\n\r\n", 0},
    {"CR in a name", 400, "GET / HTTP/1.1\r\n" H "X\rY: a\r\n\r\n", 0},
    /* fields */
    {"no Host", 400, "GET / HTTP/1.1\r\n\r\n", 0},
    {"two Hosts", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 0},
    {"two equal Hosts", 400, "GET / HTTP/1.1\r\n" H H "\r\n", 0},
    {"two Authorizations", 400,
     "GET / HTTP/1.1\r\n" H "Authorization: a\r\nauthorization: b\r\n\r\n", 0},
    {"two Content-Types", 400, "GET / HTTP/1.1\r\n" H "Content-Type: a\r\nContent-Type: a\r\n\r\n",
     0},
    {"one of each", 200,
     "GET / HTTP/1.1\r\n" H "Content-Type: a\r\nAuthorization: b\r\nOrigin: c\r\nIdempotency-Key: "
     "d\r\n\r\n",
     0},
    {"two Accepts are a list", 200, "GET / HTTP/1.1\r\n" H "Accept: a\r\nAccept: b\r\n\r\n", 0},
    {"two Hosts in HTTP/1.0", 400, "GET / HTTP/1.0\r\n" H H "\r\n", 0},
    {"blank before the colon", 400, "GET / HTTP/1.1\r\nHost : a\r\n\r\n", 0},
    {"tab before the colon", 400, "GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", 0},
    {"no colon", 400, "GET / HTTP/1.1\r\n" H "Foo bar\r\n\r\n", 0},
    {"empty name", 400, "GET / HTTP/1.1\r\n" H ": x\r\n\r\n", 0},
    {"Host with a port", 200, "GET / HTTP/1.1\r\nHost: a.b-c_d:8080\r\n\r\n", 0},
    {"Host with an empty port", 200, "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 0},
    {"Host of IPv6", 200, "GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n\r\n", 0},
    {"Host of IPv4 in IPv6", 200, "GET / HTTP/1.1\r\nHost: [::ffff:127.0.0.1]\r\n\r\n", 0},
    {"Host with a path", 400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 0},
    {"Host with a user", 400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 0},
    {"Host with a scheme", 400, "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", 0},
    {"Host with a blank", 400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 0},
    {"Host with letters for a port", 400, "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 0},
    {"Host with two ports", 400, "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 0},
    {"Host of IPv6 without brackets", 400, "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 0},
    {"Host of IPv6, half a bracket", 400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 0},
    {"Host of no IPv6", 400, "GET / HTTP/1.1\r\nHost: []\r\n\r\n", 0},
    {"Host with letters behind a bracket", 400, "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", 0},
    {"Host of high bytes", 400, "GET / HTTP/1.1\r\nHost: \xc3\xa9\r\n\r\n", 0},
    {"absolute form with a bad port", 400, "GET http://a:b/ HTTP/1.1\r\n" H "\r\n", 0},
    {"absolute form with a port alone", 400, "GET http://:80/ HTTP/1.1\r\n" H "\r\n", 0},
    {"absolute form with a query alone", 200, "GET http://a?b HTTP/1.1\r\n" H "\r\n", 0},
    {"an escaped slash in the path", 400, "GET /a%2fb HTTP/1.1\r\n" H "\r\n", 0},
    {"an escaped backslash", 400, "GET /a%5Cb HTTP/1.1\r\n" H "\r\n", 0},
    {"an escaped slash in the query", 200, "GET /?a%2Fb%5c HTTP/1.1\r\n" H "\r\n", 0},
    {"a backslash", 400, "GET /a\\b HTTP/1.1\r\n" H "\r\n", 0},
    {"braces in the query", 200, "GET /?{a|b} HTTP/1.1\r\n" H "\r\n", 0},
    {"braces in the path", 400, "GET /{a} HTTP/1.1\r\n" H "\r\n", 0},
    {"folded value", 400, "GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n\r\n", 0},
    {"folded by a tab", 400, "GET / HTTP/1.1\r\n" H "X: a\r\n\tb\r\n\r\n", 0},
    {"folded into a length", 400, "POST / HTTP/1.1\r\n" H "Content-Len: 35\r\n gth\r\nX: y\r\n\r\n",
     0},
    {"folded into chunked", 400, "POST / HTTP/1.1\r\n" H "Transfer-Encod: chunked\r\n ing\r\n\r\n",
     0},
    {"blank before the first field", 400, "GET / HTTP/1.1\r\n\tContent-Length: 1\r\n" H "\r\nX", 0},
    {"a line of blanks", 400, "GET / HTTP/1.1\r\n" H "   \r\n\r\n", 0},
    {"NUL in a value", 400, RAW("GET / HTTP/1.1\r\n" H "X: a\0b\r\n\r\n")},
    {"NUL in a name", 400, RAW("GET / HTTP/1.1\r\n" H "X\0Y: a\r\n\r\n")},
    {"controls in a name", 400, "GET / HTTP/1.1\r\n" H "X\x01\x7f(): a\r\n\r\n", 0},
    {"parentheses in a name", 400, "GET / HTTP/1.1\r\n" H "X(y): a\r\n\r\n", 0},
    {"high byte in a name", 400, "GET / HTTP/1.1\r\n" H "X\xef: a\r\n\r\n", 0},
    {"escape in a value", 400, "GET / HTTP/1.1\r\n" H "X: \x1b[31m\r\n\r\n", 0},
    {"DEL in a value", 400, "GET / HTTP/1.1\r\n" H "X: \x7f\r\n\r\n", 0},
    /* lengths */
    {"blank before the colon of a length", 400,
     "POST / HTTP/1.1\r\n" H "Content-Length : 5\r\n\r\nABCDE", 0},
    {"+5", 400, "POST / HTTP/1.1\r\n" H "Content-Length: +5\r\n\r\nABCDE", 0},
    {"-5", 400, "POST / HTTP/1.1\r\n" H "Content-Length: -5\r\n\r\n", 0},
    {"0x5", 400, "POST / HTTP/1.1\r\n" H "Content-Length: 0x5\r\n\r\nABCDE", 0},
    {"5Z", 400, "POST / HTTP/1.1\r\n" H "Content-Length: 5Z\r\n\r\nABCDE", 0},
    {"5.0", 400, "POST / HTTP/1.1\r\n" H "Content-Length: 5.0\r\n\r\nABCDE", 0},
    {"quoted 5", 400, "POST / HTTP/1.1\r\n" H "Content-Length: \"5\"\r\n\r\nABCDE", 0},
    {"empty length", 400, "POST / HTTP/1.1\r\n" H "Content-Length: \r\n\r\n", 0},
    {"5,5", 400, "POST / HTTP/1.1\r\n" H "Content-Length: 5,5\r\n\r\nABCDE", 0},
    {"5, 5", 400, "POST / HTTP/1.1\r\n" H "Content-Length: 5, 5\r\n\r\nABCDE", 0},
    {"5 and a blank", 400, "POST / HTTP/1.1\r\n" H "Content-Length: 5 \r\n\r\nABCDE", 0},
    {"two lengths 5 0", 400,
     "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nContent-Length: 0\r\n\r\nABCDE", 0},
    {"two lengths 0 5", 400,
     "POST / HTTP/1.1\r\n" H "Content-Length: 0\r\nContent-Length: 5\r\n\r\nABCDE", 0},
    {"two equal lengths", 400,
     "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\nContent-Length: 5\r\n\r\nABCDE", 0},
    {"leading zeros", 400, "POST / HTTP/1.1\r\n" H "Content-Length: 00000000005\r\n\r\nABCDE", 0},
    {"one byte too many", 413, "POST / HTTP/1.1\r\n" H "Content-Length: 262145\r\n\r\n", 0},
    {"ten digits", 413, "POST / HTTP/1.1\r\n" H "Content-Length: 9999999999\r\n\r\n", 0},
    {"2^64", 413, "POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551616\r\n\r\n", 0},
    {"2^64 - 1", 413, "POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551615\r\n\r\n", 0},
    {"2^64 + 5", 413, "POST / HTTP/1.1\r\n" H "Content-Length: 18446744073709551621\r\n\r\n", 0},
    {"too long for a GET as well", 413, "GET / HTTP/1.1\r\n" H "Content-Length: 999999\r\n\r\n", 0},
    {"too long, yet malformed later", 400,
     "POST / HTTP/1.1\r\n" H "Content-Length: 262145\r\nX y\r\n\r\n", 0},
    /* transfer codings */
    {"length and chunked", 400, "POST / HTTP/1.1\r\n" H "Content-Length: 5\r\n" CHUNKED "\r\n", 0},
    {"chunked and length", 400, "POST / HTTP/1.1\r\n" H CHUNKED "Content-Length: 5\r\n\r\n", 0},
    {"identity and length", 400,
     "POST / HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nABCDE", 0},
    {"xchunked", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n", 0},
    {",chunked", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: ,chunked\r\n\r\n", 0},
    {"gzip, chunked", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n", 0},
    {"chunked, chunked", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, chunked\r\n\r\n",
     0},
    {"chunked and a blank", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked \r\n\r\n", 0},
    {"chunked;q=1", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: chunked;q=1\r\n\r\n", 0},
    {"quoted chunked", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: \"chunked\"\r\n\r\n", 0},
    {"nbsp chunked", 501,
     "POST / HTTP/1.1\r\n" H "Transfer-Encoding: \xa0"
     "chunked\r\n\r\n",
     0},
    {"vertical tab chunked", 400,
     "POST / HTTP/1.1\r\n" H "Transfer-Encoding: \x0b"
     "chunked\r\n\r\n",
     0},
    {"identity", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n\r\n", 0},
    {"empty coding", 501, "POST / HTTP/1.1\r\n" H "Transfer-Encoding:\r\n\r\n", 0},
    {"chunked twice", 400, "POST / HTTP/1.1\r\n" H CHUNKED CHUNKED "\r\n", 0},
    {"chunked and identity", 400,
     "POST / HTTP/1.1\r\n" H CHUNKED "Transfer-Encoding: identity\r\n\r\n", 0},
    {"chunked in HTTP/1.0", 400, "POST / HTTP/1.0\r\n" H CHUNKED "\r\n", 0},
    /* expectations */
    {"Expect: tea", 417, "POST / HTTP/1.1\r\n" H "Expect: tea\r\nContent-Length: 0\r\n\r\n", 0},
    {"a coded body", 415,
     "POST / HTTP/1.1\r\n" H "Content-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", 0},
    {"two codings", 415, "POST / HTTP/1.1\r\n" H "content-encoding: identity, br\r\n\r\n", 0},
    {"a body as it is", HEAD_GOOD,
     "POST / HTTP/1.1\r\n" H "Content-Encoding: Identity\r\nContent-Length: 0\r\n\r\n", 0},
    {"two Expects, one odd", 417,
     "POST / HTTP/1.1\r\n" H "Expect: x\r\nExpect: 100-continue\r\n\r\n", 0},
};

static size_t length_of(const struct row *r) { return r->len ? r->len : strlen(r->bytes); }

static void test_heads_get_the_verdict_of_the_table(void) {
    struct head h;
    CHECK(sizeof rows / sizeof *rows >= 120);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int got = head_check(&h, rows[i].bytes, length_of(&rows[i]), MAX_BODY);
        if (got != rows[i].want)
            printf("    \"%s\": %d, not %d\n", rows[i].name, got, rows[i].want);
        CHECK_INT(got, rows[i].want);
        CHECK_INT(h.status, got);
        if (got != HEAD_GOOD && got != HEAD_MORE) CHECK(h.why && h.why[0]);
    }
}

/* Shown byte by byte, a head is undecided until it has the verdict of the whole, and keeps it. */
static void test_a_verdict_does_not_depend_on_the_cut(void) {
    struct head h, part;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t len = length_of(&rows[i]), decided = 0;
        int whole = head_check(&h, rows[i].bytes, len, MAX_BODY);
        for (size_t n = 0; n <= len; n++) {
            /* a copy of just these bytes: a sanitizer sees every look beyond */
            char *copy = malloc(n ? n : 1);
            if (!copy) return;
            memcpy(copy, rows[i].bytes, n);
            int got = head_check(&part, copy, n, MAX_BODY);
            free(copy);
            bool fine = got == whole || (got == HEAD_MORE && !decided);
            if (got != HEAD_MORE) decided = n;
            if (!fine)
                printf("    \"%s\" after %zu bytes: %d, not %d\n", rows[i].name, n, got, whole);
            CHECK(fine);
        }
        if (whole == HEAD_GOOD) CHECK_INT(decided ? part.len : 0, h.len);
    }
}

static char *repeat(const char *before, const char *unit, int times, const char *after) {
    struct taca_buf b;
    taca_buf_init(&b, 1 << 20);
    taca_buf_puts(&b, before);
    for (int i = 0; i < times; i++) taca_buf_puts(&b, unit);
    taca_buf_puts(&b, after);
    return b.data;
}

static int verdict(const char *before, const char *unit, int times, const char *after) {
    struct head h;
    char *bytes = repeat(before, unit, times, after);
    int got = head_check(&h, bytes, strlen(bytes), MAX_BODY);
    free(bytes);
    return got;
}

static void test_sizes_have_limits_on_both_sides(void) {
    const char *get = "GET / HTTP/1.1\r\n" H, *end = "\r\n", *tail = " HTTP/1.1\r\n" H "\r\n";
    CHECK_INT(verdict(get, "A: b\r\n", HEAD_MAX_LINES - 1, end), 200);
    CHECK_INT(verdict(get, "A: b\r\n", HEAD_MAX_LINES, end), 431);
    CHECK_INT(verdict(get, "A: b\r\n", 5000, end), 431);
    CHECK_INT(verdict("GET /", "a", HEAD_MAX_URI - 1, tail), 200);
    CHECK_INT(verdict("GET /", "a", HEAD_MAX_URI, tail), 414);
    CHECK_INT(verdict("GET /", "a", 65536, tail), 414);
    CHECK_INT(verdict("GET / HTTP/1.1\r\n" H "X: ", "a", 65536, "\r\n\r\n"), 431);
    CHECK_INT(verdict("GET / HTTP/1.1\r\n" H "X: ", "a", HEAD_MAX_BYTES - 32, "\r\n\r\n"), 200);
    CHECK_INT(verdict("GET / HTTP/1.1\r\n" H "X: ", "a", HEAD_MAX_BYTES - 31, "\r\n\r\n"), 431);
    CHECK_INT(verdict("GET /?", "&", HEAD_MAX_PAIRS - 1, tail), 200);
    CHECK_INT(verdict("GET /?", "&", HEAD_MAX_PAIRS, tail), 414);
    CHECK_INT(verdict("GET / HTTP/1.1\r\n" H "Cookie: ", "a;", HEAD_MAX_PAIRS - 1, "\r\n\r\n"),
              200);
    CHECK_INT(verdict("GET / HTTP/1.1\r\n" H "Cookie: ", "a;", HEAD_MAX_PAIRS, "\r\n\r\n"), 431);
}

static void test_a_good_head_is_described(void) {
    struct head h;
    const char *post = "\r\nPOST / HTTP/1.0\r\nContent-Length: 77\r\nX-Y: Ab-9_.z\r\n\r\nrest";
    CHECK_INT(head_check(&h, post, strlen(post), MAX_BODY), 200);
    CHECK_INT(h.len, strlen(post) - 4);
    CHECK_INT(h.minor, 0);
    CHECK_INT(h.content_length, 77);
    CHECK(!h.chunked && !h.expects_continue);
    CHECK(h.parse_bytes >= h.len + 2 * 64);
    const char *chunked = "POST / HTTP/1.1\r\n" H CHUNKED "Expect: 100-continue\r\n\r\n";
    CHECK_INT(head_check(&h, chunked, strlen(chunked), MAX_BODY), 200);
    CHECK(h.chunked && h.expects_continue);
}

static void test_a_field_is_found_in_a_head_that_is_refused(void) {
    char out[16];
    const char *bad =
        "GET  / HTTP/1.1\r\nX-Id-2: no\r\nx-id:  me \t\r\nX-Id: again\r\n\r\nY: body\r\n";
    CHECK(head_find(out, sizeof out, bad, strlen(bad), "X-Id"));
    CHECK_STR(out, "me");
    CHECK(!head_find(out, 2, bad, strlen(bad), "X-Id")); /* no room */
    CHECK(!head_find(out, sizeof out, bad, strlen(bad), "X-I"));
    CHECK(!head_find(out, sizeof out, bad, strlen(bad), "Y")); /* behind the head */
    CHECK(!head_find(out, sizeof out, "", 0, "X"));
    CHECK(!head_find(out, sizeof out, "X: a", 4, "X")); /* not complete yet */
    CHECK(head_find(out, sizeof out, "\r\nX:\n", 6, "X"));
    CHECK_STR(out, "");
}

static const struct row bodies[] = {
    {"one chunk", 200, "5\r\nABCDE\r\n0\r\n\r\n", 0},
    {"none", 200, "0\r\n\r\n", 0},
    {"two chunks", 200, "5\r\nABCDE\r\na\r\n0123456789\r\n0\r\n\r\n", 0},
    {"large digits, zeros", 200, "0A\r\n0123456789\r\n000\r\n\r\n", 0},
    {"extension", 200, "5;a=b\r\nABCDE\r\n0\r\n\r\n", 0},
    {"trailer", 200, "0\r\nX-T: 1\r\n\r\n", 0},
    {"binary data", 200, RAW("3\r\n\0\r\n\r\n0\r\n\r\n")},
    {"nothing yet", 0, "", 0},
    {"half a chunk", 0, "5\r\nAB", 0},
    {"no end yet", 0, "5\r\nABCDE\r\n", 0},
    {"no trailer end yet", 0, "0\r\n", 0},
    {"0x5", 400, "0x5\r\nABCDE\r\n0\r\n\r\n", 0},
    {"+5", 400, "+5\r\nABCDE\r\n0\r\n\r\n", 0},
    {"-5", 400, "-5\r\nABCDE\r\n0\r\n\r\n", 0},
    {"0_2e", 400, "0_2e\r\n\r\n", 0},
    {"empty size", 400, "\r\n\r\n", 0},
    {"blank before", 400, " 5\r\nABCDE\r\n0\r\n\r\n", 0},
    {"blank behind", 400, "5 \r\nABCDE\r\n0\r\n\r\n", 0},
    {"nine digits", 400, "000000005\r\nABCDE\r\n0\r\n\r\n", 0},
    {"17 digits", 400, "FFFFFFFFFFFFFFFFF\r\n", 0},
    {"bare LF", 400, "5\nABCDE\n0\n\n", 0},
    {"CR CR in an extension", 400, "5\r\r;A\r\nABCDE\r\n0\r\n\r\n", 0},
    {"no end of data", 400, "5\r\nABCDEXX0\r\n\r\n", 0},
    {"CR X behind data", 400, "5\r\nABCDE\rX0\r\n\r\n", 0},
    {"longer than said", 400, "4\r\nABCDE\r\n0\r\n\r\n", 0},
    {"control in an extension", 400, "5;\x01\r\nABCDE\r\n0\r\n\r\n", 0},
    {"folded trailer", 400, "0\r\nX: y\r\n z\r\n\r\n", 0},
    {"trailer without a colon", 400, "0\r\nX y\r\n\r\n", 0},
    {"trailer without a name", 400, "0\r\n: y\r\n\r\n", 0},
    {"bare LF in a trailer", 400, "0\r\nX: y\n\r\n", 0},
    {"too large", 413, "40001\r\n", 0},
    {"far too large", 413, "FFFFFFFF\r\n", 0},
    {"largest", 0, "40000\r\n", 0},
};

static void test_chunked_bodies_are_checked_as_far_as_they_came(void) {
    const char *why;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        size_t len = length_of(&bodies[i]);
        for (size_t n = 0; n <= len; n++) {
            char *copy = malloc(n ? n : 1);
            if (!copy) return;
            memcpy(copy, bodies[i].bytes, n);
            int got = head_check_chunks(copy, n, MAX_BODY, &why);
            free(copy);
            bool fine = got == bodies[i].want || (got == HEAD_MORE && n < len);
            if (!fine) printf("    \"%s\" after %zu bytes: %d\n", bodies[i].name, n, got);
            CHECK(fine);
        }
    }
}

static uint32_t next_random(uint32_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 17;
    return *s ^= *s << 5;
}

/* Edits of the table's rows: whatever comes out, cut and whole agree and nothing is read beyond. */
static void test_mutated_heads_agree_with_themselves(void) {
    uint32_t seed = 20250101;
    static const char spice[] = "\r\n \t:%&;,0159aGHTP/.*\x00\x7f\xff";
    for (int round = 0; round < 20000; round++) {
        const struct row *r = &rows[next_random(&seed) % (sizeof rows / sizeof *rows)];
        char text[512];
        size_t len = length_of(r);
        if (len == 0 || len > sizeof text) continue;
        memcpy(text, r->bytes, len);
        for (uint32_t k = next_random(&seed) % 4 + 1; k > 0; k--)
            text[next_random(&seed) % len] = spice[next_random(&seed) % (sizeof spice - 1)];
        struct head whole, part;
        head_check(&whole, text, len, MAX_BODY);
        size_t cut = next_random(&seed) % len;
        char *copy = malloc(cut ? cut : 1);
        if (!copy) return;
        memcpy(copy, text, cut);
        int got = head_check(&part, copy, cut, MAX_BODY);
        free(copy);
        if (got != HEAD_MORE && got != whole.status) CHECK_INT(got, whole.status);
    }
}

int main(void) {
    TEST(test_heads_get_the_verdict_of_the_table);
    TEST(test_a_verdict_does_not_depend_on_the_cut);
    TEST(test_sizes_have_limits_on_both_sides);
    TEST(test_a_good_head_is_described);
    TEST(test_a_field_is_found_in_a_head_that_is_refused);
    TEST(test_chunked_bodies_are_checked_as_far_as_they_came);
    TEST(test_mutated_heads_agree_with_themselves);
    return TEST_END();
}
