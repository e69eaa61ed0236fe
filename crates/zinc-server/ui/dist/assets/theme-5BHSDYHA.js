"use strict";(()=>{try{let t=localStorage.getItem("zinc.theme");(t==="light"||t==="dark")&&(document.documentElement.dataset.theme=t)}catch{}})();
