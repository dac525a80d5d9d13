package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/privlink/privlink/pkg/api"
)

func TestARM_BadRequest_StatusAndCode(t *testing.T) {
	w := newWorld(t)
	w.make()
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code                     api.Code
	}{
		{"no api-version", "GET", netPath + "?api-version=", "", 400, api.CodeMissingVersion},
		{"unknown api-version", "GET", netPath + "?api-version=2019-01-01", "", 400, api.CodeInvalidVersion},
		{"newest", "GET", netPath + "?api-version=2025-05-01", "", 200, ""},
		{"oldest, other case", "GET", strings.ToUpper(netPath) + "?API-Version=2022-01-01", "", 200, ""},
		{"missing", "GET", rg + "/virtualNetworks/none", "", 404, api.CodeNotFound},
		{"no such path", "GET", rg + "/routeTables/x", "", 404, api.CodeNotFound},
		{"no such method", "POST", netPath, "{}", 405, api.CodeMethodNotAllowed},
		{"bad name", "GET", rg + "/virtualNetworks/a%20b", "", 400, api.CodeInvalidParameter},
		{"unicode name", "PUT", rg + "/virtualNetworks/n%C3%A9t", netBody, 400, api.CodeInvalidParameter},
		{"not JSON", "PUT", netPath, "{", 400, api.CodeInvalidRequest},
		{"empty", "PUT", netPath, "", 400, api.CodeInvalidRequest},
		{"a list", "PUT", netPath, "[]", 400, api.CodeInvalidRequest},
		{"two documents", "PUT", netPath, netBody + netBody, 400, api.CodeInvalidRequest},
		{"a name twice", "PUT", netPath, `{"location":"local","Location":"local","properties":{}}`, 400, api.CodeInvalidRequest},
		{"too deep", "PUT", netPath, `{"location":` + deep + `}`, 400, api.CodeInvalidRequest},
		{"too large", "PUT", netPath, `{"location":"` + strings.Repeat("x", api.MaxBody) + `"}`, 413, api.CodeTooLarge},
		{"wrong type of value", "PUT", netPath, `{"location":7}`, 400, api.CodeInvalidRequest},
		{"another name", "PUT", netPath, strings.Replace(netBody, "{", `{"name":"other",`, 1), 400, api.CodeInvalidParameter},
		{"location changed", "PUT", netPath, strings.Replace(netBody, "local", "elsewhere", 1), 409, "InvalidResourceLocation"},
		{"unknown property is ignored", "PUT", netPath, strings.Replace(netBody, "{", `{"unknown":{"a":1},`, 1), 200, ""},
		{"unknown enum", "PUT", lbPath, strings.Replace(lbBody, "Standard", "Basic", 1), 400, ""},
		{"$top", "GET", rg + "/virtualNetworks?$top=0", "", 400, api.CodeInvalidParameter},
		{"$skipToken", "GET", rg + "/virtualNetworks?$skipToken=***", "", 400, api.CodeInvalidParameter},
		{"no such operation", "GET", "/subscriptions/s/providers/Microsoft.Network/locations/local/operations/AAAA", "", 404, api.CodeNotFound},
		{"an operation that is not supported", "POST", lbPath + "/migrateToIpBased", "{}", 400, api.CodeOperationNotSupported},
		{"the same of what is not there", "POST", rg + "/loadBalancers/none/migrateToIpBased", "{}", 404, api.CodeNotFound},
		{"a life that no clock counts", "POST", "/privlink/tokens", `{"principal":"root","lifeInSeconds":9223372036854775807}`, 400, api.CodeInvalidParameter},
		{"delete what is used", "DELETE", netPath, "", 409, api.CodeInUse},
		{"delete what is not there", "DELETE", rg + "/virtualNetworks/none", "", 204, ""},
	} {
		got := w.do("root", c.method, c.path, c.body)
		if got.status != c.status || c.code != "" && got.code() != string(c.code) {
			t.Errorf("%s: %d %s, want %d %s\n%.300s", c.name, got.status, got.code(), c.status, c.code, got.body)
		}
		if c.status >= 400 && got.code() == "" {
			t.Errorf("%s: no ARM error body: %.300s", c.name, got.body)
		}
	}
	if got := w.do("root", "PUT", netPath, netBody, "Content-Type: text/plain"); got.status != http.StatusUnsupportedMediaType {
		t.Errorf("a body that is not JSON: %d", got.status)
	}
}

// The interfaces that a service and an endpoint own are there to be read.
func TestARM_OwnedNIC_ReadOnly(t *testing.T) {
	w := newWorld(t)
	w.make()
	for _, owner := range []string{plsPath, pePath} {
		var resource struct {
			Properties struct{ NetworkInterfaces []struct{ ID string } }
		}
		if err := json.Unmarshal([]byte(w.do("root", "GET", owner, "").body), &resource); err != nil || len(resource.Properties.NetworkInterfaces) != 1 {
			t.Fatalf("%s: %v, %d interfaces", owner, err, len(resource.Properties.NetworkInterfaces))
		}
		nic := resource.Properties.NetworkInterfaces[0].ID
		before := w.do("root", "GET", nic, "")
		if before.status != http.StatusOK {
			t.Fatalf("GET %s: %d", nic, before.status)
		}
		revision := w.controller.Revision()
		for _, c := range [][2]string{{"PUT", nicBody}, {"PUT", before.body}, {"PATCH", `{"tags":{"a":"b"}}`}, {"DELETE", ""}} {
			if got := w.do("root", c[0], nic, c[1]); got.status != http.StatusConflict || got.code() != string(api.CodeReadOnly) {
				t.Errorf("%s %s: %d %s, want 409 %s", c[0], nic, got.status, got.body, api.CodeReadOnly)
			}
		}
		if after := w.do("root", "GET", nic, ""); after.body != before.body || w.controller.Revision() != revision {
			t.Errorf("%s was changed:\n%s\n%s", nic, before.body, after.body)
		}
	}
}

func TestARM_Conditions_EtagDecides(t *testing.T) {
	w := newWorld(t)
	if got := w.do("root", "PUT", netPath, netBody, "If-Match: *"); got.status != http.StatusPreconditionFailed {
		t.Errorf("If-Match for what does not exist: %d", got.status)
	}
	made := w.do("root", "PUT", netPath, netBody, "If-None-Match: *")
	if made.status != http.StatusCreated || made.header.Get("ETag") == "" {
		t.Fatalf("first PUT: %d, etag %q", made.status, made.header.Get("ETag"))
	}
	if got := w.do("root", "PUT", netPath, netBody, "If-None-Match: *"); got.status != http.StatusPreconditionFailed {
		t.Errorf("If-None-Match for what exists: %d", got.status)
	}
	etag := made.header.Get("ETag")
	changed := strings.Replace(netBody, "{", `{"tags":{"a":"b"},`, 1)
	second := w.do("root", "PUT", netPath, changed, "If-Match: "+etag)
	if second.status != http.StatusOK || second.header.Get("ETag") == etag {
		t.Errorf("PUT with the right etag: %d, etag %s then %s", second.status, etag, second.header.Get("ETag"))
	}
	if got := w.do("root", "PUT", netPath, netBody, "If-Match: "+etag); got.status != http.StatusPreconditionFailed {
		t.Errorf("PUT with an old etag: %d", got.status)
	}
	if got := w.do("root", "DELETE", netPath, "", "If-Match: "+etag); got.status != http.StatusPreconditionFailed {
		t.Errorf("DELETE with an old etag: %d", got.status)
	}
	if got := w.do("root", "DELETE", netPath, "", "If-Match: "+second.header.Get("ETag")); got.status != http.StatusOK {
		t.Errorf("DELETE with the right etag: %d", got.status)
	}
}

// Every write that ARM gives an etag takes conditions: parts have that of their resource, connections one of their own.
func TestARM_ConditionsOnPartsConnectionsAndTags_Decide(t *testing.T) {
	w := newWorld(t)
	w.make()
	connection := plsPath + "/privateEndpointConnections/" + w.connection()
	etag := func(path string) string { t.Helper(); return w.do("root", "GET", path, "").header.Get("ETag") }
	subnet := func(prefix string) string { return `{"properties":{"addressPrefix":"` + prefix + `"}}` }
	decision := func(text string) string {
		return `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved","description":"` + text + `"}}}`
	}
	const peering = `{"properties":{"remoteVirtualNetwork":{"id":"` + rg + `/virtualNetworks/other"}}}`
	if got := w.do("root", "PUT", rg+"/virtualNetworks/other", strings.ReplaceAll(netBody, "10.0.", "10.5.")); got.status != 201 {
		t.Fatal(got.body)
	}
	rule := strings.Replace(lbBody[strings.Index(lbBody, `{"name":"ssh"`):strings.Index(lbBody, `]}}`)], "22", "23", 1)
	rule = strings.Replace(rule, "ssh", "new", 1)
	for _, c := range []struct {
		method, path, body, condition string
		want                          int
	}{
		{"PUT", netPath + "/subnets/b", subnet("10.0.1.0/24"), "If-None-Match: *", 201},
		{"PUT", netPath + "/subnets/b", subnet("10.0.2.0/24"), "If-None-Match: *", 412},
		{"PUT", netPath + "/subnets/c", subnet("10.0.3.0/24"), "If-Match: *", 412},
		{"PUT", netPath + "/subnets/b", subnet("10.0.2.0/24"), "If-Match: *", 200},
		{"PUT", netPath + "/subnets/b", subnet("10.0.4.0/24"), `If-Match: W/"1"`, 412},
		{"PUT", netPath + "/subnets/b", subnet("10.0.4.0/24"), "If-Match: ETAG", 200},
		{"PUT", netPath + "/subnets/b", subnet("10.0.5.0/24"), `If-Match: W/"1", ETAG`, 200},
		{"DELETE", netPath + "/subnets/b", "", `If-Match: W/"1"`, 412},
		{"DELETE", netPath + "/subnets/b", "", "If-Match: ETAG", 200},
		{"DELETE", netPath + "/subnets/b", "", "If-Match: *", 412},
		{"DELETE", netPath + "/subnets/b", "", "If-None-Match: x", 204},
		{"PUT", netPath + "/virtualNetworkPeerings/p", peering, "If-None-Match: *", 201},
		{"PUT", netPath + "/virtualNetworkPeerings/p", peering, "If-None-Match: *", 412},
		{"PUT", lbPath + "/backendAddressPools/q", `{}`, "If-None-Match: *", 201},
		{"PUT", lbPath + "/backendAddressPools/q", `{}`, "If-None-Match: *", 412},
		{"PUT", lbPath + "/inboundNatRules/new", rule, "If-None-Match: *", 201},
		{"PUT", lbPath + "/inboundNatRules/new", rule, "If-None-Match: *", 412},
		{"PATCH", netPath, `{"tags":{"a":"1"}}`, `If-Match: W/"1"`, 412},
		{"PATCH", netPath, `{"tags":{"a":"1"}}`, "If-None-Match: *", 412},
		{"PATCH", netPath, `{"tags":{"a":"1"}}`, "If-Match: ETAG", 200},
		{"PATCH", netPath, `{"tags":{"a":"2"}}`, "If-Match: *", 200},
		{"PUT", connection, decision("a"), `If-Match: W/"1"`, 412},
		{"PUT", connection, decision("a"), "If-Match: ETAG", 200},
		{"PUT", connection, decision("b"), "If-Match: *", 200},
		{"PUT", connection, decision("c"), "If-None-Match: *", 412},
		{"DELETE", connection, "", `If-Match: W/"1"`, 412},
		{"DELETE", connection, "", "If-Match: ETAG", 200},
		{"DELETE", connection, "", "If-Match: *", 412},
	} {
		before := w.controller.Revision()
		got := w.do("root", c.method, c.path, c.body, strings.Replace(c.condition, "ETAG", etag(c.path), 1))
		if got.status != c.want || c.want == 412 && got.code() != string(api.CodePrecondition) {
			t.Errorf("%s %s %s: %d %s, want %d", c.method, c.path, c.condition, got.status, got.body, c.want)
		}
		if c.want == 412 && w.controller.Revision() != before {
			t.Errorf("%s %s %s was refused and changed something", c.method, c.path, c.condition)
		}
	}
}

// An etag is the version of what was written. What others did shows in the answer too (states, connections), so nobody is
// told that what he has is still true.
func TestARM_GetWithIfNoneMatch_AnswersInFull(t *testing.T) {
	w := newWorld(t)
	w.make()
	first := w.do("root", "GET", plsPath, "")
	if got := w.do("root", "DELETE", pePath, ""); got.status != 200 {
		t.Fatal(got.body)
	}
	got := w.do("root", "GET", plsPath, "", "If-None-Match: "+first.header.Get("ETag"))
	if got.status != 200 || got.header.Get("ETag") != first.header.Get("ETag") || got.body == first.body {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestARM_DryRunOfADecision_ChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.make()
	connection, before := plsPath+"/privateEndpointConnections/"+w.connection(), w.controller.Revision()
	got := w.do("root", "PUT", connection+"?dryRun=true", `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved"}}}`)
	if got.status != 200 || !strings.Contains(got.body, `"status":"Approved"`) {
		t.Errorf("dry run: %d %s", got.status, got.body)
	}
	if got := w.do("root", "DELETE", connection+"?dryRun=true", ""); got.status != 200 {
		t.Errorf("dry run: %d %s", got.status, got.body)
	}
	if got := w.do("root", "GET", connection, ""); w.controller.Revision() != before || !strings.Contains(got.body, `"status":"Pending"`) {
		t.Errorf("afterwards: %s", got.body)
	}
}

func TestARM_List_PagesFollowEachOther(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"c", "A", "b", "d", "E"} {
		if got := w.do("root", "PUT", rg+"/virtualNetworks/"+name, netBody); got.status != http.StatusCreated {
			t.Fatal(got.body)
		}
	}
	var names []string
	for next, pages := rg+"/virtualNetworks?$top=2", 0; next != ""; pages++ {
		got := w.do("root", "GET", next, "")
		var page struct {
			Value    []struct{ Name string }
			NextLink string
		}
		if err := json.Unmarshal([]byte(got.body), &page); err != nil || pages > 5 {
			t.Fatalf("%d pages, %v: %s", pages, err, got.body)
		}
		for _, v := range page.Value {
			names = append(names, v.Name)
		}
		if page.NextLink != "" && (!strings.HasPrefix(page.NextLink, w.url+"/subscriptions/") || !strings.Contains(page.NextLink, "api-version=")) {
			t.Errorf("nextLink %q is not absolute with api-version", page.NextLink)
		}
		// What comes and goes between pages shifts nothing.
		w.do("root", "DELETE", rg+"/virtualNetworks/a", "")
		next = page.NextLink
	}
	if got := strings.Join(names, " "); got != "A b c d E" {
		t.Errorf("pages have %s", got)
	}
}

// A kernel that needs longer makes a write a long-running operation with absolute URLs.
func TestARM_SlowKernel_LongRunningOperation(t *testing.T) {
	w := newWorld(t)
	w.hold.Lock()
	made := w.do("root", "PUT", netPath, netBody)
	poll := made.header.Get("Azure-AsyncOperation")
	if made.status != http.StatusCreated || !strings.HasPrefix(poll, w.url+"/") || !strings.Contains(made.body, `"provisioningState":"Updating"`) {
		t.Errorf("PUT: %d, operation %q\n%s", made.status, poll, made.body)
	}
	if got := w.do("root", "GET", poll, ""); got.status != http.StatusOK || !strings.Contains(got.body, `"status":"InProgress"`) || got.header.Get("Retry-After") == "" {
		t.Errorf("operation under way: %d %s", got.status, got.body)
	}
	results := strings.Replace(poll, "/operations/", "/operationResults/", 1)
	if got := w.do("root", "GET", results, ""); got.status != http.StatusAccepted || got.header.Get("Location") == "" {
		t.Errorf("result under way: %d", got.status)
	}
	w.hold.Unlock()
	id, err := api.ParseID(netPath, api.ID{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.controller.Wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if got := w.do("root", "GET", poll, ""); !strings.Contains(got.body, `"status":"Succeeded"`) {
		t.Errorf("operation at its end: %s", got.body)
	}
	if got := w.do("root", "GET", results, ""); got.status != http.StatusNoContent {
		t.Errorf("result at the end: %d", got.status)
	}
	w.principal("stranger", "", "")
	if got := w.do("stranger", "GET", poll, ""); strings.Contains(got.body, "Succeeded") {
		t.Errorf("a stranger learns from the operation: %s", got.body)
	}
}

// Whatever the body, no route that takes one fails or half-applies.
func FuzzWrite_AnyJSON_NeverFailsNeverHalfApplies(f *testing.F) {
	for _, seed := range []string{netBody, lbBody, plsBody, peBody, nicBody, `{}`, `null`, `{"properties":null}`, `{"properties":{"subnets":[null]}}`,
		`{"name":"a","properties":{"addressPrefix":"10.0.9.0/24"}}`, `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved"}}}`, `{"tags":{"a":"b"}}`,
		`{"steps":[{"id":"` + netPath + `"},{"id":"` + netPath + `","put":` + netBody + `}]}`, `{"steps":[null,{"id":"` + pePath + `","put":null}],"dryRun":true}`,
		`{"privateLinkServiceAlias":"x"}`, `{"principal":"root","lifeInSeconds":-1}`, `{"principal":"root","role":"Owner","scope":"/"}`, `{"tenant":"t"}`} {
		f.Add(seed)
	}
	w := newWorld(f)
	w.make()
	type write struct{ method, path string }
	var writes []write
	fill := strings.NewReplacer("{subscription}", "s", "{group}", "g", "{location}", "local", "{name}", "x")
	for _, r := range (&Server{options: w.options}).operations() {
		if r.method == "GET" || r.method == "DELETE" || strings.HasSuffix(r.path, "/restore") {
			continue // what a restore takes is no JSON
		}
		path := r.path
		for _, known := range []string{netPath, lbPath, plsPath, pePath, nicPath} {
			kind := strings.Split(known, "/")[7]
			path = strings.Replace(path, "/"+kind+"/{name}", "/"+kind+"/"+known[strings.LastIndex(known, "/")+1:], 1)
		}
		path = strings.Replace(path, "privateEndpointConnections/{child}", "privateEndpointConnections/"+w.connection(), 1)
		writes = append(writes, write{r.method, fill.Replace(strings.Replace(path, "{child}", "a", 1))})
	}
	if len(writes) < 20 {
		f.Fatalf("only %d routes take a body", len(writes))
	}
	f.Fuzz(func(t *testing.T, body string) {
		w.t = t
		for _, to := range writes {
			before := w.controller.Revision()
			got := w.do("root", to.method, to.path, body)
			if got.status >= 500 {
				t.Errorf("%s %s: %d %s", to.method, to.path, got.status, got.body)
			}
			if got.status >= 400 && w.controller.Revision() != before {
				t.Errorf("%s %s was refused and changed something", to.method, to.path)
			}
		}
	})
}
