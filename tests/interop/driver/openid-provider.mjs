// A real OpenID provider (npm oidc-provider), whose people sign in without being asked.
//
//   node openid-provider.mjs '{"port": 0, "client": {...}, "jwks": {...}, "thin": true}'
//
// It says on its first line where it listens. POST /control sets who signs in next, or with which error nobody
// does: {"account": {"sub": "1", "email": "..."}} or {"refuse": "access_denied"}.

import { createServer } from "node:http";

// It warns of Node 20 and of development keys by console; stdout is for the one line.
console.log = console.info = console.warn = () => {};
const { Provider } = await import("oidc-provider");

const { port, client, jwks, thin } = JSON.parse(process.argv[2]);
const accounts = new Map();
let next = {};

const server = createServer();
await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [client],
  jwks,
  cookies: { keys: ["a key for cookies"] },
  // "thin": the ID token leaves out what the user info endpoint tells, as the standard has it.
  conformIdTokenClaims: thin,
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  features: { devInteractions: { enabled: false } },
  pkce: { required: () => true },
  ttl: { AccessToken: 600, AuthorizationCode: 60, Grant: 600, IdToken: 600, Interaction: 600, Session: 600 },
  interactions: { url: (_ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (_ctx, sub) => ({ accountId: sub, claims: () => accounts.get(sub) }),
  loadExistingGrant: async (ctx) => {
    const { client, provider, session } = ctx.oidc;
    const known = session.grantIdFor(client.clientId);
    if (known) return provider.Grant.find(known);
    const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
    grant.addOIDCScope("openid email profile");
    await grant.save();
    return grant;
  },
});
provider.on("server_error", (_ctx, error) => console.error(error));

const serve = provider.callback();
server.on("request", async (request, response) => {
  try {
    if (request.url === "/control") {
      let body = "";
      for await (const part of request) body += part;
      next = JSON.parse(body);
      if (next.account) accounts.set(next.account.sub, next.account);
      response.end();
    } else if (request.url.startsWith("/interaction/")) {
      const result = next.refuse
        ? { error: next.refuse, error_description: "a description for <them>" }
        : { login: { accountId: next.account.sub } };
      await provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
    } else {
      serve(request, response);
    }
  } catch (error) {
    console.error(error);
    response.statusCode = 500;
    response.end();
  }
});
process.stdout.write(`${issuer}\n`);
process.stdin.on("end", () => process.exit(0)).resume();
