"""The page of `fluxline serve`: one prompt, one seed, two versions side by side; nothing is loaded from elsewhere."""

_STYLE = """
:root{--ink:#22262a;--soft:#5a636b;--line:#d9dde0;--paper:#fff;--tint:#f4f6f7;--bad:#b23a2e;--blue:#1f6f8b;
--on-blue:#fff;color-scheme:light}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9eb;--soft:#a3adb5;--line:#3a4248;--paper:#16191c;--tint:#1f2428;
--bad:#f0897c;--blue:#6fb9d3;--on-blue:#10181c;color-scheme:dark}}
*{box-sizing:border-box}
[hidden]{display:none!important}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","DejaVu Sans",sans-serif}
main{max-width:62rem;margin:0 auto;padding:1.1rem 1.25rem 3rem}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.2rem 1rem;margin:0 0 .5rem}
h1{font-size:1.5rem;letter-spacing:-.02em;margin:0}
header p{margin:0;color:var(--soft);font-size:.92rem}
label,legend{font-size:.82rem;font-weight:600;color:var(--soft)}
input,select,button{font:inherit;color:inherit}
input[type=text],input[type=number],select{width:100%;padding:.5rem .65rem;border:1px solid var(--line);
border-radius:.4rem;background:var(--paper)}
input[type=range]{width:100%;margin:0;accent-color:var(--blue);height:1.6rem}
[aria-invalid=true]{border-color:var(--bad)!important;outline:1px solid var(--bad)}
:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
button{padding:.5rem .9rem;border:1px solid var(--line);border-radius:.4rem;background:var(--paper);cursor:pointer}
button:hover{border-color:var(--blue)}
button.main{background:var(--blue);border-color:var(--blue);color:var(--on-blue);font-weight:650;padding:.5rem 1.6rem}
.ask{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:.3rem .7rem;align-items:end}
.ask label{grid-column:1/-1}
.ask input{font-size:1.1rem;padding:.6rem .8rem}
.ask button{padding:.6rem 1.6rem;font-size:1.1rem}
.try{display:flex;gap:.4rem;margin:.5rem 0 0;padding:.2rem 2rem .2rem .2rem;list-style:none;overflow-x:auto;
scrollbar-width:none;mask-image:linear-gradient(to right,#000 calc(100% - 3rem),transparent)}
.try button{font-size:.85rem;padding:.2rem .7rem;border-radius:1rem;color:var(--soft);white-space:nowrap}
.shared{display:flex;flex-wrap:wrap;gap:.7rem 2rem;margin:.6rem 0 .9rem;align-items:end}
.shared>div{display:flex;gap:.5rem;align-items:center}
.shared input{width:11rem}
fieldset{border:0;margin:0;padding:0;display:flex;gap:.5rem;align-items:center}
legend{float:left;padding:0;margin-right:.5rem}
.choice{display:flex;border:1px solid var(--line);border-radius:.4rem;overflow:hidden}
.choice label{position:relative;padding:.5rem .9rem;color:var(--ink);cursor:pointer;font-size:1rem;font-weight:400}
.choice label+label{border-left:1px solid var(--line)}
.choice input{position:absolute;opacity:0;inset:0;margin:0;cursor:pointer}
.choice label:has(:checked){background:var(--blue);color:var(--on-blue)}
.choice label:has(:focus-visible){outline:2px solid var(--blue);outline-offset:-4px;outline-color:currentColor}
.sides{display:grid;grid-template-columns:1fr 1fr;gap:1.5rem}
.side{min-width:0}
.controls{display:grid;gap:.35rem;margin:.6rem 0 0}
.slide{display:grid;grid-template-columns:5.2rem minmax(0,1fr) 2.6rem;gap:.6rem;align-items:center}
.slide select{grid-column:2/-1;padding:.3rem .5rem}
.slide output{text-align:right;font-variant-numeric:tabular-nums;font-weight:650}
.hint{justify-self:start;font-size:.85rem;padding:.25rem .7rem;color:var(--blue)}
.frame{aspect-ratio:1;margin:.5rem 0 0;display:grid;gap:.4rem;
background:var(--tint);border-radius:.5rem;overflow:hidden;
grid-template-columns:repeat(var(--columns,1),1fr);transition:opacity .15s}
.frame[aria-busy=true]:not(.empty){opacity:.55}.frame.stale{opacity:.3}
.frame.empty{place-items:center;color:var(--soft);text-align:center;padding:1rem;font-size:.95rem}
.frame a{display:block;min-width:0;border-radius:.3rem;overflow:hidden;outline-offset:-3px}
.frame a:not(:focus-visible){outline:1px solid #8884;outline-offset:-1px}
.frame img{display:block;width:100%;aspect-ratio:1;object-fit:contain;image-rendering:pixelated}
.told{margin:.5rem 0 0;font-size:.88rem;color:var(--soft);font-variant-numeric:tabular-nums;min-height:1.5em}
.error{margin:.5rem 0 0;color:var(--bad);font-size:.92rem;overflow-wrap:anywhere}
footer{margin-top:2rem;padding-top:.8rem;border-top:1px solid var(--line);color:var(--soft);font-size:.85rem}
footer a{color:var(--blue)}code{font-size:.95em}
@media(max-width:40rem){main{padding:.8rem .9rem 2rem}.sides{gap:.8rem}
.ask{grid-template-columns:minmax(0,1fr) auto}.ask button{padding:.6rem .9rem}
.shared{gap:.5rem 1rem}.shared input{width:6rem}.choice label{padding:.5rem .7rem}
.slide{grid-template-columns:1fr auto;gap:0 .4rem}.slide input,.slide select{grid-column:1/-1;grid-row:2}
.side>select{padding:.45rem .2rem;font-size:.85rem}.told{font-size:.8rem}}
"""

_SIDE = """<section class="side" aria-label="SIDE">
<label for="model-ID">SIDE</label><select id="model-ID" data-field="model variant"></select>
<div class="frame empty" id="frame-ID">Nothing drawn yet</div>
<p class="told" id="told-ID" aria-live="polite"></p>
<p class="error" id="error-ID" role="alert" hidden></p>
<div class="controls">
<div class="slide"><label for="steps-ID">Steps</label>
<input id="steps-ID" type="range" min="1" max="50" value="1" data-field="num_steps">
<output id="steps-out-ID"></output></div>
<div class="slide"><label for="guidance-ID">Guidance</label>
<input id="guidance-ID" type="range" min="1" max="8" step="0.5" value="1" data-field="guidance">
<output id="guidance-out-ID"></output></div>
<div class="slide" id="lora-row-ID" hidden><label for="lora-ID">LoRA</label>
<select id="lora-ID" data-field="lora"></select></div>
<div class="slide" id="scale-row-ID" hidden><label for="scale-ID">LoRA scale</label>
<input id="scale-ID" type="range" min="0" max="2" step="0.1" value="1" data-field="lora_scale">
<output id="scale-out-ID"></output></div>
<button type="button" class="hint" id="trigger-ID" hidden></button>
</div>
</section>"""

_BODY = f"""<main>
<header><h1>Fluxline</h1><p id="about">Reading the models …</p></header>
<form id="form" novalidate>
<div class="ask"><label for="prompt">Prompt</label>
<input id="prompt" type="text" maxlength="1000" autocomplete="off" autofocus data-field="prompt">
<button class="main" id="draw">Draw</button></div>
<p class="error" id="error" role="alert" hidden></p>
<ul class="try" id="try" aria-label="Prompts of the model's own kind"></ul>
<div class="shared">
<div><label for="seed">Seed</label><input id="seed" type="number" min="0" step="1" value="0" data-field="seed">
<button type="button" id="next">New seed</button></div>
<fieldset data-field="num_images"><legend>Images</legend><div class="choice">
<label><input type="radio" name="images" value="1" checked>1</label>
<label><input type="radio" name="images" value="4">4</label>
<label><input type="radio" name="images" value="9">9</label></div></fieldset>
</div>
<div class="sides">
{_SIDE.replace("SIDE", "Left").replace("ID", "a")}
{_SIDE.replace("SIDE", "Right").replace("ID", "b")}
</div>
</form>
<footer>The same prompt and seed on both sides. A click on an image saves it; the file carries its recipe.
From a program: <code>POST /generate</code>, told in <a href="openapi.json">openapi.json</a>.</footer>
</main>"""

_SCRIPT = """
const $ = id => document.getElementById(id);
const sides = ['a', 'b'], running = {};
let models = [], hasDrawn = false;

function option(value, text) {
  const made = document.createElement('option');
  made.value = value; made.textContent = text;
  return made;
}

function chosen(side) {
  const [number, variant] = JSON.parse($('model-' + side).value);
  return {model: models[number], variant};
}

function titled(model, variant) {
  const several = new Set(models.map(each => each.model)).size > 1;
  const name = model.version ? `${several ? model.model + ' ' : ''}v${model.version}` : model.label;
  return [`${name} ${variant}`, ...model.aliases].join(' · ');
}

function fill(side) {
  const select = $('model-' + side);
  models.forEach((model, number) => Object.keys(model.variants).forEach(variant =>
    select.append(option(JSON.stringify([number, variant]), titled(model, variant)))));
  if (side === 'b') select.selectedIndex = models.length > 1 ? Object.keys(models[0].variants).length
    : select.options.length - 1;
  adapt(side);
}

function adapt(side) {
  const {model, variant} = chosen(side), usual = model.variants[variant];
  $('steps-' + side).value = usual.num_steps;
  $('guidance-' + side).value = usual.guidance;
  const lora = $('lora-' + side), before = lora.value;
  lora.replaceChildren(option('', 'no LoRA'), ...Object.keys(model.loras).map(name => option(name, name)));
  lora.value = before in model.loras ? before : '';
  $('lora-row-' + side).hidden = lora.options.length < 2;
  show(side);
}

function show(side) {
  $('steps-out-' + side).value = $('steps-' + side).value;
  $('guidance-out-' + side).value = $('guidance-' + side).value;
  $('scale-out-' + side).value = $('scale-' + side).value;
  const lora = $('lora-' + side).value, trigger = chosen(side).model.loras[lora];
  $('scale-row-' + side).hidden = !lora;
  $('trigger-' + side).hidden = !trigger || $('prompt').value.toLowerCase().includes(trigger.toLowerCase());
  $('trigger-' + side).textContent = `Add “in ${trigger}” to the prompt: the word that calls this style`;
}

function request(side) {
  const {model, variant} = chosen(side), lora = $('lora-' + side).value;
  const asked = {
    prompt: $('prompt').value, seed: $('seed').value.trim() === '' ? null : Number($('seed').value),
    num_images: Number(document.querySelector('[name=images]:checked').value),
    num_steps: Number($('steps-' + side).value), guidance: Number($('guidance-' + side).value),
    model: model.label, variant};
  return lora ? {...asked, lora, lora_scale: Number($('scale-' + side).value)} : asked;
}

function refuse(side, field, message) {
  const own = $('frame-' + side).parentElement, called = `[data-field~="${field}"]`;
  const at = field && (own.querySelector(called) || document.querySelector(called));
  if (at) at.setAttribute('aria-invalid', 'true');
  const label = at && document.querySelector(`label[for="${at.id}"]`);
  const shown = at && !own.contains(at) ? $('error') : $('error-' + side);
  shown.textContent = (label ? label.textContent + ': ' : field ? field + ': ' : '') + message;
  shown.hidden = false;
  $('frame-' + side).classList.add('stale');
}

function present(side, asked, answer) {
  const frame = $('frame-' + side);
  frame.classList.remove('empty', 'stale');
  frame.style.setProperty('--columns', Math.ceil(Math.sqrt(answer.images.length)));
  frame.replaceChildren(...answer.images.map(each => {
    const link = document.createElement('a'), image = document.createElement('img');
    image.src = link.href = 'data:image/png;base64,' + each.png;
    image.alt = `${asked.prompt}, seed ${each.seed}`;
    link.download = asked.prompt.toLowerCase().replace(/[^a-z0-9]+/g, '-').slice(0, 60) + `-${each.seed}.png`;
    link.title = `seed ${each.seed}: save as PNG`;
    link.append(image);
    return link;
  }));
  const many = answer.images.length > 1, last = answer.images.at(-1).seed;
  const time = answer.milliseconds < 1000 ? `${Math.round(answer.milliseconds)} ms`
    : `${(answer.milliseconds / 1000).toFixed(1)} s`;
  $('told-' + side).textContent = `${answer.num_steps} step${answer.num_steps > 1 ? 's' : ''} · guidance ` +
    `${answer.guidance} · ${many ? `seeds ${answer.images[0].seed}–${last}` : `seed\u00a0${last}`} · ${time}`;
}

async function draw(side) {
  running[side]?.abort();
  const mine = running[side] = new AbortController(), asked = request(side);
  $('error-' + side).hidden = true;
  $('frame-' + side).setAttribute('aria-busy', 'true');
  try {
    const reply = await fetch('generate', {method: 'POST', signal: mine.signal, body: JSON.stringify(asked),
      headers: {'Content-Type': 'application/json'}});
    const answer = await reply.json();
    if (reply.ok) present(side, asked, answer); else refuse(side, answer.error.field, answer.error.message);
  } catch (error) {
    if (mine.signal.aborted) return;
    refuse(side, '', 'the server does not answer; is `fluxline serve` still running?');
  }
  $('frame-' + side).setAttribute('aria-busy', 'false');
}

function drawBoth() {
  hasDrawn = true;
  sides.forEach(show);
  $('error').hidden = true;
  document.querySelectorAll('[aria-invalid]').forEach(each => each.removeAttribute('aria-invalid'));
  sides.forEach(draw);
}

async function begin() {
  models = await (await fetch('models')).json();
  sides.forEach(fill);
  const names = [...new Set(models.map(model => model.model || model.label))];
  $('about').textContent = names.join(', ');
  const prompts = [...new Set(models.flatMap(model => model.prompts))].slice(0, 6);
  $('prompt').value = prompts[0] || '';
  $('try').replaceChildren(...prompts.map(prompt => {
    const item = document.createElement('li'), button = document.createElement('button');
    button.type = 'button'; button.textContent = prompt;
    button.onclick = () => { $('prompt').value = prompt; drawBoth(); };
    item.append(button);
    return item;
  }));
  $('form').onsubmit = event => { event.preventDefault(); drawBoth(); };
  $('next').onclick = () => { $('seed').value = Math.floor(Math.random() * 1e6); drawBoth(); };
  $('seed').onchange = () => hasDrawn && drawBoth();
  document.querySelectorAll('[name=images]').forEach(each => each.onchange = () => hasDrawn && drawBoth());
  $('prompt').oninput = () => sides.forEach(show);
  sides.forEach(side => {
    $('trigger-' + side).onclick = () => {
      $('prompt').value = `${$('prompt').value.trim()} in ${chosen(side).model.loras[$('lora-' + side).value]}`;
      drawBoth();
    };
    $('model-' + side).onchange = () => { adapt(side); if (hasDrawn) draw(side); };
    for (const name of ['steps', 'guidance', 'scale', 'lora']) {
      $(`${name}-${side}`).oninput = () => show(side);
      $(`${name}-${side}`).onchange = () => hasDrawn && draw(side);
    }
  });
}
begin().catch(() => { $('about').textContent = 'The server does not answer; reload the page when it is back.'; });
"""

PAGE = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width,initial-scale=1">\n<link rel="icon" href="data:,">\n'
    f"<title>Fluxline</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{_BODY}\n<script>{_SCRIPT}</script>\n"
    "</body>\n</html>\n"
)
