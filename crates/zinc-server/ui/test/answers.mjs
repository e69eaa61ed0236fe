// What the imitated model says.

/** Markdown with everything that answers may hold. */
export const rich = `## A small tour

Zinc runs **one plan** on every device, so \`cpu\` and \`cuda\` agree *token for token*. Here is how fast a model can be at best: each token reads every weight once, so

$$
t_{\\min} = \\frac{\\text{bytes of weights}}{\\text{bandwidth}}
$$

With $b = 4.9$ GB and 1,008 GB/s that is about **4.9 ms**, or 206 tokens per second.

| Model | Size | Bound |
|:--|--:|--:|
| Qwen3 4B | 2.5 GB | 403 tok/s |
| Llama 3.1 8B | 4.9 GB | 206 tok/s |
| gpt-oss 20B | 12.1 GB | 83 tok/s |

\`\`\`rust
/// Tokens per second that the memory allows at best.
fn bound(weights: &Weights, device: &Device) -> f64 {
    let bytes: u64 = weights.iter().map(|w| w.n_bytes()).sum();
    device.bandwidth / bytes as f64 // one pass per token
}
\`\`\`

1. Measure the bandwidth with \`zinc bench\`.
2. Divide by the bytes that a token reads.
   - experts count by how many are *used*
   - caches grow with the context

> What is close to its bound is finished. What is far from it has a reason.

- [x] read the weights once
- [ ] read them less than once

See the [roofline model](https://en.wikipedia.org/wiki/Roofline_model) for more.
`;

/** Everything that must stay text. */
export const hostile = `<script>window.__pwned = 1</script>
<img src=x onerror="window.__pwned = 2">
<iframe srcdoc="<script>parent.__pwned = 3</script>"></iframe>

[click](javascript:window.__pwned=4) [data](data:text/html,<script>window.__pwned=5</script>) [vb](vbscript:x)
[good](https://example.org/a?b=c) <https://example.org/auto> ![pixel](https://evil.example/p.png?leak=1)

<a href="javascript:window.__pwned=6">raw</a> <svg/onload=window.__pwned=7> <style>body{display:none}</style>

| a | b
|---|
| broken | table | row |

**bold without end and *both _mixed** up*

\`\`\`html
<script>window.__pwned = 8</script>

$\\href{javascript:window.__pwned=9}{x}$ stays in the open fence`;

const more = `

$\\href{javascript:window.__pwned=9}{x}$ and $\\htmlStyle{position:fixed}{y}$ and $\\undefinedmacro{$

مرحبا بالعالم، هذا نص عربي مع **كلمة** و \`code\`.

[ref]: javascript:window.__pwned=10
[ref] &lt;script&gt; &#x3C;b&#x3E;`;

/** Cuts a text as tokens would: a few characters each. */
export function tokens(text) {
  return text.match(/\s*\S{1,5}|\s+$/gs) ?? [];
}

const text = (from) => tokens(from).map((content) => ({ content }));
const think = (from) => tokens(from).map((reasoning_content) => ({ reasoning_content }));

function story(n) {
  const part = 'The fox walked through the wood and looked for a **warm** place. It found a `den` under an old oak, and slept.\n\n';
  return part.repeat(Math.ceil(n / 28));
}

/** A long answer of every sort of block, of about so many tokens. */
export function recorded(nTokens) {
  let whole = '';
  for (let i = 1; tokens(whole).length < nTokens; i++) whole += rich.replace('A small tour', `Part ${i}`) + story(60);
  return whole;
}

/** The deltas with which a message is answered. */
export function answers(message, body, last) {
  const rate = 400;
  if (last?.role === 'tool') return { rate, deltas: text(`The tool said: ${message}`) };
  if (body.response_format) return { rate, deltas: text('{"name": "Ada", "age": 36, "city": "London"}') };
  if (body.tools) {
    return {
      rate,
      finish: 'tool_calls',
      deltas: [
        { tool_calls: [{ index: 0, id: 'call_1', type: 'function', function: { name: 'weather', arguments: '' } }] },
        ...tokens('{"city": "Oslo", "unit": "celsius"}').map((part) => ({ tool_calls: [{ index: 0, function: { arguments: part } }] })),
      ],
    };
  }
  if (message.includes('think')) {
    return { rate: 30, deltas: [...think('The user wants to see a thought.\n\nFirst I look at the question, then I answer it. This takes a while.'), ...text('After some thought: **42**.')] };
  }
  if (message.includes('hostile')) return { rate: 2000, deltas: text(message.includes('two') ? more : hostile) };
  if (message.includes('long line')) return { rate: 4000, deltas: Array.from({ length: 256 }, () => ({ content: 'x<b>*[$'.repeat(586).slice(0, 4096) })) };
  if (message.includes('endless')) return { rate: 60, deltas: text(story(4000)) };
  if (message.includes('recorded')) return { rate: 200, deltas: text(recorded(1400)) };
  if (message.includes('cut')) return { rate, deltas: [...text('This answer breaks'), 'cut'] };
  if (message.includes('too long')) return { failure: [400, 'context_length_exceeded', 'the prompt has 9000 tokens, the context 8192'] };
  if (message.includes('busy')) return { busy: true, rate, deltas: text('Now there is time.') };
  if (message.includes('broken field')) return { failure: [400, 'invalid_value', 'top_p: expected a number from 0 to 1'] };
  if (message.includes('at once')) return { rate, deltas: [{ content: 'First.\n\nSecond.\n\nThird.' }] };
  if (message.includes('definitions')) return { rate, deltas: text('See [here] and [there].\n\nThen this.\n\n[here]: https://a.example\n[there]: https://b.example\n') };
  if (message.includes('tour')) return { rate: 900, deltas: text(rich) };
  return { rate, deltas: text(`You said: ${message}`) };
}
