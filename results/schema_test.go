package results_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"

	"tcplab/results"
)

var update = flag.Bool("update", false, "write golden files")

const schemaFile = "../docs/schema/run.schema.json"

// schema is the JSON Schema of run.json, from the types themselves. Readers
// ignore what they do not know, so further fields are allowed everywhere.
func schema(t *testing.T) []byte {
	t.Helper()
	enum := func(values ...any) *jsonschema.Schema { return &jsonschema.Schema{Type: "string", Enum: values} }
	s, err := jsonschema.For[results.Run](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[time.Time]():       {Type: "string", Format: "date-time"},
		reflect.TypeFor[results.Verdict](): enum("pass", "fail", "inconclusive", "invalid"),
		reflect.TypeFor[results.Holds]():   enum("", "yes", "no", "mixed", "missing", "not reached", "not asked"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "A run of tcplab: run.json, schema tcplab.run/1"
	s.Description = "Values are in SI base units (s, bit/s, B, 1/s, counts). What was not measured is absent, never 0. Readers ignore fields that they do not know, and refuse a higher major version."
	s.Properties["schema"] = &jsonschema.Schema{Type: "string", Pattern: "^tcplab\\.run/1$"}
	open(s)
	out, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func open(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if s.Properties != nil {
		s.AdditionalProperties = nil
	} else {
		open(s.AdditionalProperties)
	}
	open(s.Items)
	for _, p := range s.Properties {
		open(p)
	}
}

func TestCommittedSchemaIsThatOfTheTypes(t *testing.T) {
	got := schema(t)
	if *update {
		if err := os.WriteFile(schemaFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the types say; go test ./results -update writes it", schemaFile)
	}
}

func compiled(t *testing.T) *validator.Schema {
	t.Helper()
	doc, err := validator.UnmarshalJSON(bytes.NewReader(schema(t)))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	if err := c.AddResource("run.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("run.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t *testing.T, s *validator.Schema, doc string) error {
	t.Helper()
	v, err := validator.UnmarshalJSON(strings.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestEveryCommittedRecordIsValid(t *testing.T) {
	s := compiled(t)
	records, err := filepath.Glob("../docs/examples/*/run.json")
	if err != nil || len(records) == 0 {
		t.Fatalf("no committed record: %v", err)
	}
	for _, name := range records {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := valid(t, s, string(data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefusesWhatIsNoRecord(t *testing.T) {
	s := compiled(t)
	dir := t.TempDir()
	if err := results.Save(dir, &results.Run{Experiment: "x", Verdict: results.Pass, Command: []string{"tcplab"}, Seeds: results.Seeds{Pairs: []uint64{1}},
		Predictions: map[string]results.Prediction{}, Arms: map[string]results.Arm{}, Expectations: map[string]results.Expectation{}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	if err := valid(t, s, good); err != nil {
		t.Fatalf("a saved record: %v", err)
	}
	for _, change := range [][2]string{
		{`"verdict": "pass"`, `"verdict": "splendid"`},
		{`"schema": "tcplab.run/1"`, `"schema": "tcplab.run/2"`},
		{`"arms": {}`, `"arms": []`},
		{`"took": 0`, `"took": "long"`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("the record does not say %s:\n%s", change[0], good)
		}
		if valid(t, s, bad) == nil {
			t.Errorf("valid with %s", change[1])
		}
	}
	if err := valid(t, s, strings.Replace(good, "{", `{"from_the_future": 1,`, 1)); err != nil {
		t.Errorf("a field that is not known: %v", err)
	}
}
