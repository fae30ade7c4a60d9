package drain_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

var long = flag.Bool("long", false, "many more clients")

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "32") // most of these wait more than they work
	goleak.VerifyTestMain(m)
}
